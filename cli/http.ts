import { readFileSync } from 'node:fs';
import { EXIT, Failure, failureOf, unreachable } from './failure.js';

/* Requests to the server, without credentials. */

const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');

export const VERSION: string = JSON.parse(manifest).version;

/** The session list of the account shows it. */
export const USER_AGENT = `landfall-cli/${VERSION}`;

/** How long the server may take until it begins its answer. */
const ANSWER_MS = 60_000;

/**
 * Sends a request. `path` begins with a slash.
 * @throws {Failure} when there is no answer; the reason of `init.signal` when that is aborted
 */
export async function reach(server: string, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set('User-Agent', USER_AGENT);
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`no answer within ${ANSWER_MS / 1000} s`)), ANSWER_MS);
  const signal = init.signal ? AbortSignal.any([late.signal, init.signal]) : late.signal;
  try {
    return await fetch(`${server}${path}`, { redirect: 'manual', ...init, headers, signal });
  } catch (error) {
    init.signal?.throwIfAborted();
    throw unreachable(server, error);
  } finally {
    clearTimeout(timer);
  }
}

/** POSTs JSON, and returns the answer if it is a success. @throws {Failure} */
export async function postJson(server: string, path: string, body: object): Promise<Response> {
  const headers = { 'Content-Type': 'application/json' };
  return requireOk(
    server,
    await reach(server, path, { method: 'POST', headers, body: JSON.stringify(body) }),
  );
}

/** @throws {Failure} when the answer is an error, or sends the client elsewhere */
export async function requireOk(server: string, answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  const location = answer.headers.get('Location');
  if (answer.status >= 300 && answer.status < 400 && location) {
    await answer.body?.cancel();
    // A password or a token must not follow a redirect.
    const { origin } = new URL(location, server);
    throw new Failure(EXIT.failed, `${server} redirects to ${origin}: set LANDFALL_URL to the address meant`);
  }
  throw await failureIn(answer);
}

/** The failure that an answer reports. */
export async function failureIn(answer: Response): Promise<Failure> {
  const body = await answer.text().catch(() => '');
  return failureOf({ status: answer.status, header: (name) => answer.headers.get(name), body });
}
