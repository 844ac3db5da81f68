import type { UserJson } from '../server/answers/account.js';
import type { RegistrationJson, SessionJson } from '../server/answers/auth.js';
import type { FileJson, FilePageJson } from '../server/answers/files.js';
import { ApiError } from './api-error.js';

export type User = UserJson;

export type StoredFile = FileJson;

export type FileStatus = FileJson['status'];

type Session = SessionJson;

export type Registration = RegistrationJson['registration'];

export interface Credentials {
  email: string;
  password: string;
  /** Token of an invitation to register. */
  invitation?: string;
}

const REQUEST_TIMEOUT_MS = 30_000;
/**
 * A refresh token works once, and again for 10 s after its replacement. If an answer is late, the request is
 * repeated well within that time, because the answer may be lost.
 */
const REFRESH_PATIENCE_MS = 4000;
const RENEW_BEFORE_MS = 30_000;

/**
 * The server's API and the signed-in user. The access token lives only in memory; after a reload the refresh
 * cookie, which scripts cannot read, restores the session.
 */
export class Api {
  /** Called when the server has ended the session, or when the session has become another user's. */
  onSessionLost: () => void = () => {};

  #session: Session | undefined;
  #renewAt = 0;
  #renewing: Promise<void> | undefined;

  /** The user of the refresh cookie, or undefined if the user has to sign in. */
  async restore(): Promise<User | undefined> {
    try {
      await this.#renew();
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return undefined;
      throw error;
    }
    return this.#session?.user;
  }

  /** Tells who may create an account now. */
  async registration(): Promise<Registration> {
    return (await askAboutSignIn()).registration;
  }

  /** Whether people sign in to this server. Without an answer they do. */
  async needsSignIn(): Promise<boolean> {
    return (await askAboutSignIn().catch(() => undefined))?.signIn ?? true;
  }

  async signIn(action: 'login' | 'register', credentials: Credentials): Promise<User> {
    const response = await send(`/api/auth/${action}`, json('POST', credentials));
    return this.#accept(await response.json());
  }

  async signOut(): Promise<void> {
    await send('/api/auth/logout', { method: 'POST' });
  }

  /** A page of files, newest first. */
  files(cursor: string | null): Promise<FilePageJson> {
    const query = new URLSearchParams({ limit: '50', ...(cursor !== null && { cursor }) });
    return this.get(`/api/files?${query}`);
  }

  async get<T>(path: string): Promise<T> {
    return (await this.#request(path)).json();
  }

  /** @returns undefined if the answer has no content */
  async post<T>(path: string, body: object): Promise<T> {
    const answer = await this.#request(path, json('POST', body));
    return answer.status === 204 ? (undefined as T) : answer.json();
  }

  async patch<T>(path: string, body: object): Promise<T> {
    return (await this.#request(path, json('PATCH', body))).json();
  }

  async delete(path: string): Promise<void> {
    await this.#request(path, { method: 'DELETE' });
  }

  /** The text of an answer that goes on until `signal` aborts. */
  async stream(path: string, signal: AbortSignal): Promise<ReadableStream<string>> {
    const { body } = await this.#request(path, { signal }, sendPatiently);
    if (!body) throw new Error(`${path} has no body`);
    return body.pipeThrough(new TextDecoderStream());
  }

  /** An access token that does not expire soon. */
  async accessToken(): Promise<string> {
    if (Date.now() >= this.#renewAt) await this.#renew();
    if (!this.#session) throw new Error('Nobody is signed in');
    return this.#session.accessToken;
  }

  /** Reports that the server refused this token, so that the next request gets a new one. */
  tokenRefused(token: string): void {
    if (this.#session?.accessToken === token) this.#renewAt = 0;
  }

  async #request(
    path: string,
    init: RequestInit = {},
    sendIt: (path: string, init: RequestInit) => Promise<Response> = send,
  ): Promise<Response> {
    const sendWith = (token: string) =>
      sendIt(path, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } });
    const token = await this.accessToken();
    try {
      return await sendWith(token);
    } catch (error) {
      // A wrong password must not be tried again.
      const isTokenRefused =
        error instanceof ApiError && error.status === 401 && error.code !== 'wrong_credentials';
      if (!isTokenRefused) throw error;
      this.tokenRefused(token);
      return await sendWith(await this.accessToken());
    }
  }

  #accept(session: Session): User {
    this.#session = session;
    const lifetime = session.expiresIn * 1000;
    this.#renewAt = Date.now() + lifetime - Math.min(RENEW_BEFORE_MS, lifetime / 10);
    return session.user;
  }

  #renew(): Promise<void> {
    this.#renewing ??= this.#renewOnce().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const before = this.#session?.user.id;
    try {
      // Tabs share the refresh cookie, and one refresh at a time is enough. Browsers offer locks to secure
      // origins only; elsewhere two tabs may send the same token.
      const session = await (navigator.locks?.request('landfall-refresh', refresh) ?? refresh());
      const user = this.#accept(session);
      // Another user signed in, in another tab.
      if (before !== undefined && before !== user.id) this.onSessionLost();
    } catch (error) {
      if (before !== undefined && error instanceof ApiError && error.status === 401) this.onSessionLost();
      throw error;
    }
  }
}

async function askAboutSignIn(): Promise<RegistrationJson> {
  return (await send('/api/auth')).json();
}

/** Gets a new access token. Only a 401 means that the session is over. */
async function refresh(): Promise<Session> {
  const enough = new AbortController();
  const ask = async (): Promise<Session> =>
    (await send('/api/auth/refresh', { method: 'POST' }, enough.signal)).json();
  try {
    return await askAgainWhenLate(ask, REFRESH_PATIENCE_MS);
  } finally {
    enough.abort();
  }
}

/**
 * Asks a second time if the answer is late or lost. The first answer still counts if it arrives, as it may on
 * a slow connection.
 */
async function askAgainWhenLate<T>(ask: () => Promise<T>, patienceMs: number): Promise<T> {
  const first = ask();
  const late = Symbol();
  const patience = new Promise<typeof late>((resolve) => setTimeout(() => resolve(late), patienceMs));
  const answer = await Promise.race([first, patience]).catch((error: unknown) => {
    // A 5xx answer of a proxy does not tell whether the server handled the request.
    if (error instanceof ApiError && error.status < 500) throw error;
    return late;
  });
  if (answer !== late) return answer as T;
  return Promise.any([first, ask()]).catch(({ errors }: AggregateError) => {
    throw errors.find((error) => error instanceof ApiError) ?? errors[0];
  });
}

function json(method: string, body: object): RequestInit {
  return { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

/** @throws {ApiError} for an error status; a DOMException or TypeError without an answer */
async function send(path: string, init: RequestInit = {}, signal?: AbortSignal): Promise<Response> {
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  return sendPatiently(path, { ...init, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
}

/** Like send(), but the answer may take any time. */
async function sendPatiently(path: string, init: RequestInit): Promise<Response> {
  const response = await fetch(path, init);
  if (!response.ok) throw await ApiError.from(response);
  return response;
}
