import { setTimeout as pause } from 'node:timers/promises';
import type { Credentials } from './credentials.js';
import type { Failure } from './failure.js';
import { failureIn, reach, requireOk } from './http.js';

/** The server as the user of these credentials sees it. */
export interface Api {
  server: string;
  credentials: Credentials;
  /**
   * An answer that is a success. Waits and asks again if the server says when. `path` begins with a slash.
   * @throws {Failure}
   */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** The JSON of an answer. @throws {Failure} */
  json<T>(path: string, init?: RequestInit): Promise<T>;
}

/** How often one request may be told to wait. */
const MAX_WAITS = 5;

/** @param signal ends all requests */
export function openApi(server: string, credentials: Credentials, signal: AbortSignal): Api {
  async function attempt(path: string, init: RequestInit, renewable: boolean): Promise<Response> {
    const token = await credentials.token();
    const headers = new Headers(init.headers);
    headers.set('Authorization', `Bearer ${token}`);
    const answer = await reach(server, path, { signal, ...init, headers });
    if (answer.status !== 401 || !renewable || !credentials.refuse(token)) return answer;
    await answer.body?.cancel();
    return attempt(path, init, false);
  }

  const api: Api = {
    server,
    credentials,
    async fetch(path, init = {}) {
      for (let waits = 0; ; waits++) {
        const answer = await attempt(path, init, true);
        if ((answer.status !== 429 && answer.status !== 503) || waits === MAX_WAITS) {
          return requireOk(server, answer);
        }
        await pause(waitOf(await failureIn(answer)), undefined, { signal });
      }
    },
    async json<T>(path: string, init: RequestInit = {}) {
      return (await api.fetch(path, init)).json() as Promise<T>;
    },
  };
  return api;
}

/** Milliseconds until a refused request may be sent again. */
function waitOf({ answered }: Failure): number {
  return 1000 * Math.max(1, answered.retryAfter ?? 1);
}
