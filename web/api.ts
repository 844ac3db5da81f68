export interface User {
  id: string;
  email: string;
  role: 'user' | 'admin';
}

export type FileStatus =
  | 'pending'
  | 'processing'
  | 'completed'
  | 'failed'
  | 'infected'
  | 'paused'
  | 'canceled';

export interface StoredFile {
  id: string;
  filename: string;
  size: number;
  declaredType: string | null;
  detectedType: string | null;
  status: FileStatus;
  step: string | null;
  /** 0 to 100 */
  progress: number;
  createdAt: string;
  error: { detail?: string | null } | null;
  warnings: { step: string; code: string; detail?: string | null }[];
  /** Signed addresses for `<img>` and `<a>`; null until the file may be seen. */
  links: { content: string | null; thumbnails: { small?: string } | null };
}

export interface FilePage {
  items: StoredFile[];
  nextCursor: string | null;
}

interface Session {
  user: User;
  accessToken: string;
  /** Seconds until the access token expires. */
  expiresIn: number;
}

const REQUEST_TIMEOUT_MS = 30_000;
const RENEW_BEFORE_MS = 30_000;

/** An answer that says no. Its message is meant for people. */
export class ApiError extends Error {
  override name = 'ApiError';

  constructor(
    readonly status: number,
    message: string,
    /** How long the server asks to wait before the next attempt, if it does. */
    readonly retryAfterMs: number | undefined,
  ) {
    super(message);
  }

  static async from(response: Response): Promise<ApiError> {
    const problem: { detail?: unknown; title?: unknown } = await response.json().catch(() => ({}));
    const message = [problem.detail, problem.title].find((text) => typeof text === 'string' && text !== '');
    const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
    return new ApiError(
      response.status,
      message === undefined ? `The server answered ${response.status}` : String(message),
      Number.isFinite(seconds) ? seconds * 1000 : undefined,
    );
  }
}

/** What to tell people about an error. */
export function explain(error: unknown): string {
  return error instanceof ApiError ? error.message : 'The server cannot be reached.';
}

/**
 * The server's API and who is signed in. The access token lives here, in memory only; what outlives a reload
 * is the refresh cookie, which scripts cannot read.
 */
export class Api {
  /** Called once the session is over on the server's side, or has become another user's. */
  onSessionLost: () => void = () => {};

  #session: Session | undefined;
  #renewAt = 0;
  #renewing: Promise<void> | undefined;

  /** The user whom the refresh cookie still knows, or undefined when someone has to sign in. */
  async restore(): Promise<User | undefined> {
    try {
      await this.#renew();
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return undefined;
      throw error;
    }
    return this.#session?.user;
  }

  async signIn(action: 'login' | 'register', email: string, password: string): Promise<User> {
    const response = await this.#send(`/api/auth/${action}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ email, password }),
    });
    return this.#accept(await response.json());
  }

  async signOut(): Promise<void> {
    await this.#send('/api/auth/logout', { method: 'POST' });
  }

  /** A page of files, newest first. */
  async files(cursor: string | null): Promise<FilePage> {
    const query = new URLSearchParams({ limit: '50', ...(cursor !== null && { cursor }) });
    return (await this.#request(`/api/files?${query}`)).json();
  }

  async deleteFile(id: string): Promise<void> {
    await this.#request(`/api/files/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  /** An access token that is not about to expire. */
  async accessToken(): Promise<string> {
    if (Date.now() >= this.#renewAt) await this.#renew();
    if (!this.#session) throw new Error('Nobody is signed in');
    return this.#session.accessToken;
  }

  /** Says that the server refused this token, so that the next request brings a new one. */
  tokenRefused(token: string): void {
    if (this.#session?.accessToken === token) this.#renewAt = 0;
  }

  async #request(path: string, init: RequestInit = {}): Promise<Response> {
    const token = await this.accessToken();
    try {
      return await this.#send(path, { ...init, headers: { authorization: `Bearer ${token}` } });
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      this.tokenRefused(token);
      const renewed = await this.accessToken();
      return await this.#send(path, { ...init, headers: { authorization: `Bearer ${renewed}` } });
    }
  }

  async #send(path: string, init: RequestInit): Promise<Response> {
    const response = await fetch(path, { ...init, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    if (!response.ok) throw await ApiError.from(response);
    return response;
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
    const send = () => this.#send('/api/auth/refresh', { method: 'POST' });
    try {
      // Tabs share the refresh cookie, and each refresh makes a new access token: one after the other is
      // enough. Browsers offer locks to secure origins only.
      const response = await (navigator.locks?.request('landfall-refresh', send) ?? send());
      const user = this.#accept(await response.json());
      // Someone else signed in, in another tab.
      if (before !== undefined && before !== user.id) this.onSessionLost();
    } catch (error) {
      if (before !== undefined && error instanceof ApiError && error.status === 401) this.onSessionLost();
      throw error;
    }
  }
}
