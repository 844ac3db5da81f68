import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { AddressRefused, createGuardedLookup, isAllowedHost } from './guard.js';
import type { Sent } from './sender.js';

/*
 * Sends one message to a receiver that nobody here knows: it may be slow, silent, endless or lying. Its status counts as
 * soon as the head of its answer is there. Redirects are not followed: a receiver could send us anywhere. Each message
 * has a connection of its own, so that the address is checked for each.
 */

/** Milliseconds for name, connection and TLS, and for everything up to the head of the answer. */
const CONNECT_MS = 5_000;
const TOTAL_MS = 15_000;

/** How long the beginning of an answer may take after its head, in milliseconds. */
const ANSWER_MS = 2_000;

/** Bytes of an answer that are read and kept. */
const ANSWER_BYTES = 1024;

const GONE = 410;

export type Post = (request: {
  url: string;
  headers: Record<string, string>;
  body: string;
  signal: AbortSignal;
}) => Promise<Sent>;

export interface PostOptions {
  /** Whether receivers may be in private networks. */
  allowPrivate: boolean;
  /** Name servers; undefined: those of the system. */
  nameServers?: string[];
  connectMs?: number;
  totalMs?: number;
}

/** Makes the function that sends messages. It resolves whatever the receiver does. */
export function createPost(options: PostOptions): Post {
  const { allowPrivate, nameServers, connectMs = CONNECT_MS, totalMs = TOTAL_MS } = options;
  // An operator's own names may be in no name server.
  const lookup = allowPrivate ? undefined : createGuardedLookup(nameServers);
  return async ({ url, signal, ...message }) => {
    const begun = performance.now();
    const sent = (status: number | null, answer: string | null, error: string | null): Sent => ({
      isDelivered: status !== null && status >= 200 && status < 300,
      status,
      durationMs: Math.round(performance.now() - begun),
      answer,
      error,
    });
    const target = new URL(url);
    try {
      if (!allowPrivate && !isAllowedHost(target.hostname)) throw new AddressRefused();
      const limit = AbortSignal.any([signal, AbortSignal.timeout(totalMs)]);
      const answer = await headOf(target, { ...message, lookup, connectMs, signal: limit });
      const { statusCode = 0, headers } = answer;
      return {
        ...sent(statusCode, await readBeginning(answer), null),
        isGone: statusCode === GONE,
        retryAfter: secondsOf(headers['retry-after']),
      };
    } catch (error) {
      return sent(null, null, reasonOf(error));
    }
  };
}

interface Call {
  headers: Record<string, string>;
  body: string;
  lookup: LookupFunction | undefined;
  connectMs: number;
  signal: AbortSignal;
}

/** The connection was not open in time. */
class ConnectTimeout extends Error {
  override name = 'TimeoutError';
}

function headOf(target: URL, { headers, body, lookup, connectMs, signal }: Call): Promise<IncomingMessage> {
  const isSecure = target.protocol === 'https:';
  return new Promise((resolve, reject) => {
    const request = (isSecure ? https : http).request(target, {
      method: 'POST',
      agent: false,
      headers: { 'user-agent': 'Landfall', ...headers, 'content-length': Buffer.byteLength(body) },
      signal,
      ...(lookup ? { lookup } : {}),
    });
    const late = setTimeout(() => request.destroy(new ConnectTimeout()), connectMs);
    request
      .once('socket', (socket) => {
        socket.once(isSecure ? 'secureConnect' : 'connect', () => clearTimeout(late));
      })
      .once('close', () => {
        clearTimeout(late);
        // An answer with 101 closes the request without an error.
        reject(new Error('the connection was closed before an answer came'));
      })
      .once('response', resolve)
      .on('error', reject)
      .end(body);
  });
}

/** Reads at most ANSWER_BYTES and cuts the connection. */
async function readBeginning(answer: IncomingMessage): Promise<string> {
  const late = setTimeout(() => answer.destroy(), ANSWER_MS);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of answer) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= ANSWER_BYTES) break;
    }
  } catch {
    // The status has come, and the beginning of the answer is for people only.
  } finally {
    clearTimeout(late);
    answer.destroy();
  }
  const text = Buffer.concat(chunks).subarray(0, ANSWER_BYTES).toString();
  // PostgreSQL stores no U+0000.
  return text.replaceAll('\0', '\u{fffd}');
}

/** The value of Retry-After (RFC 9110, 10.2.3) in seconds. */
function secondsOf(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) && seconds > 0 ? seconds : undefined;
}

/** Codes of errors, and what the owner of the webhook is told. */
const REASONS: [pattern: RegExp, reason: string][] = [
  [/^ECONNREFUSED$/, 'connection_refused'],
  [/^(ENOTFOUND|ENODATA|ESERVFAIL|EREFUSED|ETIMEOUT|EBADNAME|EAI_.*)$/, 'name_not_found'],
  [/^ETIMEDOUT$/, 'timeout'],
  [/^HPE_/, 'invalid_answer'],
  [/CERT|TLS|SSL|^EPROTO$/, 'tls_failed'],
];

function reasonOf(error: unknown): string {
  if (error instanceof AddressRefused) return 'address_refused';
  const { name, code, cause } = error as NodeJS.ErrnoException;
  // An abort wraps the reason of its signal.
  if ([name, (cause as Error | undefined)?.name].includes('TimeoutError')) return 'timeout';
  const known = REASONS.find(([pattern]) => pattern.test(String(code)));
  return known?.[1] ?? 'connection_broken';
}
