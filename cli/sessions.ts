import { join } from 'node:path';
import type { SessionJson } from '../server/answers/auth.js';
import { EXIT, Failure } from './failure.js';
import { postJson } from './http.js';
import { configFolder, readJson, withLock, writeJson } from './private-files.js';

/*
 * Sessions of `landfall login`, one for each server. A refresh token works once; its second use ends the session, because
 * it may have been stolen. So processes take turns, and the next token is stored before the turn ends.
 */

export interface StoredSession {
  userId: string;
  email: string;
  refreshToken: string;
  accessToken: string;
  /** Milliseconds since 1970. */
  expiresAt: number;
}

interface Stored {
  /** The server of the last sign-in. */
  server?: string;
  /** By the address of the server. */
  sessions: Record<string, StoredSession>;
}

const path = () => join(configFolder(), 'sessions.json');

/** An access token that ends sooner is not used any more. */
const MARGIN_MS = 10_000;

/** How often a refresh is sent before it is given up. */
const REFRESH_ATTEMPTS = 3;

async function readStored(): Promise<Stored> {
  return (await readJson<Stored>(path())) ?? { sessions: {} };
}

/** Changes the stored sessions while no other process does. */
async function changeStored<T>(change: (stored: Stored) => Promise<T>): Promise<T> {
  const busy = 'Another landfall process holds the stored sessions: try again';
  return withLock(path(), busy, async () => {
    const stored = await readStored();
    try {
      return await change(stored);
    } finally {
      await writeJson(path(), stored);
    }
  });
}

/** The server of the last sign-in. */
export async function lastServer(): Promise<string | undefined> {
  return (await readStored()).server;
}

async function findSession(server: string): Promise<StoredSession | undefined> {
  return (await readStored()).sessions[server];
}

/** Stores the session of a sign-in. @returns the one that it replaces */
export async function keepSession(server: string, session: SessionJson): Promise<StoredSession | undefined> {
  return changeStored(async (stored) => {
    const former = stored.sessions[server];
    stored.sessions[server] = toStored(session);
    stored.server = server;
    return former;
  });
}

/** @returns the session that was stored */
export async function dropSession(server: string): Promise<StoredSession | undefined> {
  return changeStored(async (stored) => {
    const former = stored.sessions[server];
    delete stored.sessions[server];
    return former;
  });
}

/**
 * A session whose access token is fresh. Refreshes it unless another process has done so meanwhile.
 * @param refused an access token that the server did not accept
 * @throws {Failure} when there is no session, or it has ended
 */
export async function freshSession(server: string, refused: string | undefined): Promise<StoredSession> {
  const usable = (session: StoredSession) =>
    session.accessToken !== refused && Date.now() < session.expiresAt - MARGIN_MS;
  const found = await findSession(server);
  if (!found) throw new Failure(EXIT.unauthorised, notSignedIn(server));
  if (usable(found)) return found;
  return changeStored(async (stored) => {
    const session = stored.sessions[server];
    if (!session) throw new Failure(EXIT.unauthorised, notSignedIn(server));
    if (usable(session)) return session;
    try {
      const next = toStored(await refresh(server, session.refreshToken));
      stored.sessions[server] = next;
      return next;
    } catch (error) {
      if (error instanceof Failure && error.exitCode === EXIT.unauthorised) {
        delete stored.sessions[server];
        throw new Failure(EXIT.unauthorised, `${error.message} (landfall login ${server})`, error.answered);
      }
      throw error;
    }
  });
}

/** Sends a refresh again when its answer is lost: for some seconds the server accepts the same token once more. */
async function refresh(server: string, refreshToken: string): Promise<SessionJson> {
  for (let attempt = 1; ; attempt++) {
    try {
      const answer = await postJson(server, '/api/auth/refresh', { refreshToken });
      return (await answer.json()) as SessionJson;
    } catch (error) {
      const answered = error instanceof Failure && error.answered.status !== undefined;
      if (answered || attempt === REFRESH_ATTEMPTS) throw error;
    }
  }
}

function toStored({ user, refreshToken = '', accessToken, expiresIn }: SessionJson): StoredSession {
  const expiresAt = Date.now() + expiresIn * 1000;
  return { userId: user.id, email: user.email, refreshToken, accessToken, expiresAt };
}

function notSignedIn(server: string): string {
  return `Not signed in to ${server}: run "landfall login ${server}", or set LANDFALL_API_KEY`;
}
