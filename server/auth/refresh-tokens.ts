import { createHmac, type KeyObject, randomBytes } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import { User } from '../../core/database/entities/user.js';
import { execute, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import { RefusedError } from './refusals.js';
import { hashSecret } from './secrets.js';
import { isSealed, namedSession, sealToken } from './token-seal.js';

/*
 * A session opens with a refresh token (sessions.ts) and continues by exchanging it (RFC 9700, 4.14.2: "refresh token
 * rotation").
 *
 * A refresh token is opaque, stored as a hash, and valid once: its use returns the next token. A second use
 * means that a thief uses a stolen token, or that its owner uses it after a thief. The server cannot tell
 * which, so it ends the whole session. Two tabs, or a client that did not receive the answer, may send the
 * same token at nearly the same time. So for some seconds a replaced token returns its successor again, or
 * the newest token after that. The server can return it again without storing it, because a token is derived
 * from its predecessor by HMAC with a key of the server.
 *
 * The table holds the hash of the current token and of the tokens replaced in the last minute. An older token
 * is recognised by its seal (token-seal.ts). Tokens of earlier versions have no seal: their hashes are kept
 * for as long as a session may last.
 *
 * Every change of a session or its tokens locks the session's row first, so that no deadlock can occur.
 */

export const SESSION_DAYS = 30;

/** How long the token that was just replaced still works. */
const GRACE_SECONDS = 10;

/** How long the hash of a replaced sealed token is kept: longer than any request from its grace period. */
const KEPT_SECONDS = 60;

/** The largest number of exchanges between a late token and the newest one. */
const MAX_LATE = 20;

/** An open session and its current refresh token, which is stored nowhere else. */
export interface OpenSession {
  id: string;
  refreshToken: string;
}

/**
 * Exchanges a refresh token for the next one.
 * @throws {AppError} unauthenticated; a reused token ends its session
 */
export async function rotateSession(
  database: DataSource,
  key: KeyObject,
  token: string,
  actor: Actor,
): Promise<{ user: User; session: OpenSession }> {
  let wasReused = false;
  const found = await database.transaction(async (manager) => {
    const session = await lockSessionOf(manager, token);
    if (!session?.isOpen) return undefined;
    const { id, userId, state } = session;
    if (state === 'used') {
      await manager.delete(Session, { id });
      const who = { ...actor, userId, sessionId: id };
      await appendEvents(manager, [
        { type: 'auth.token_reused', subjectId: userId, ownerId: userId, actor: who, result: 'refused' },
      ]);
      wasReused = true;
      return undefined;
    }
    const user = await manager.findOneByOrFail(User, { id: userId });
    if (user.disabledAt) return undefined;
    const next = await createSuccessor(manager, key, session);
    const refreshToken =
      state === 'good'
        ? await replaceToken(manager, token, next(token), id, actor)
        : await findNewest(manager, token, next);
    return refreshToken ? { user, session: { id, refreshToken } } : undefined;
  });
  // The errors come after the commit: the end of a stolen session has to be committed.
  if (found) return found;
  const detail = 'The session has ended: sign in again';
  if (wasReused) throw new AppError('unauthenticated', { detail });
  throw new RefusedError('unauthenticated', { action: 'refresh' }, detail);
}

interface LockedSession {
  id: string;
  userId: string;
  /** Whether the session has not expired. */
  isOpen: boolean;
  tokenKey: Buffer | null;
  /** The state of the token by which the session was found. */
  state: TokenState;
}

/**
 * Locks the session that a token belongs to, however old the token is. The lock serialises parallel refreshes of one
 * session. A token that was not issued in the session locks nothing.
 * @returns undefined if there is no such session
 */
export async function lockSessionOf(
  manager: EntityManager,
  token: string,
): Promise<LockedSession | undefined> {
  const sessionId = await findSessionOf(manager, token);
  if (sessionId === undefined) return undefined;
  const [row] = await queryRows<{ user_id: string; is_open: boolean; token_key: Buffer | null }>(
    manager,
    'SELECT user_id, expires_at > now() AS is_open, token_key FROM sessions WHERE id = $1 FOR UPDATE',
    [sessionId],
  );
  if (!row) return undefined;
  // The hash of an older token is deleted.
  const state = (await stateOf(manager, token)) ?? 'used';
  return { id: sessionId, userId: row.user_id, isOpen: row.is_open, tokenKey: row.token_key, state };
}

/** The id of the session in which a token was issued: its hash is stored, or its seal proves it. */
async function findSessionOf(manager: EntityManager, token: string): Promise<string | undefined> {
  const [row] = await queryRows<{ id: string; token_key: Buffer | null; is_stored: boolean }>(
    manager,
    `SELECT id, token_key, stored.session_id IS NOT NULL AS is_stored
     FROM sessions LEFT JOIN (SELECT session_id FROM refresh_tokens WHERE token_hash = $1) AS stored ON true
     WHERE id = coalesce(stored.session_id, $2)`,
    [hashSecret(token), namedSession(token) ?? null],
  );
  if (!row) return undefined;
  return row.is_stored || (row.token_key && isSealed(token, row.token_key)) ? row.id : undefined;
}

type TokenState = 'good' | 'just replaced' | 'used';

/** A separate statement after the lock: it sees the changes of the transactions for which the lock waited. */
async function stateOf(manager: EntityManager, token: string): Promise<TokenState | undefined> {
  const [row] = await queryRows<{ state: TokenState }>(
    manager,
    `SELECT CASE WHEN replaced_at IS NULL THEN 'good'
                 WHEN replaced_at > now() - $2 * interval '1 second' THEN 'just replaced'
                 ELSE 'used' END AS state
     FROM refresh_tokens WHERE token_hash = $1`,
    [hashSecret(token), GRACE_SECONDS],
  );
  return row?.state;
}

/** Derives the successor of a token; the result is always the same. */
type Successor = (token: string) => string;

/** A session that an earlier version opened gets its token key here. */
async function createSuccessor(
  manager: EntityManager,
  key: KeyObject,
  { id, tokenKey }: LockedSession,
): Promise<Successor> {
  const sealKey = tokenKey ?? newTokenKey();
  if (!tokenKey) await execute(manager, 'UPDATE sessions SET token_key = $2 WHERE id = $1', [id, sealKey]);
  return (token) => sealToken(createHmac('sha256', key).update(token).digest('base64url'), id, sealKey);
}

/** The key with which the tokens of a new session are sealed. */
export function newTokenKey(): Buffer {
  return randomBytes(32);
}

/**
 * Follows the successors of a replaced token to the current one. Undefined if the server's key has changed,
 * or if more than MAX_LATE exchanges lie between.
 */
async function findNewest(
  manager: EntityManager,
  token: string,
  next: Successor,
): Promise<string | undefined> {
  let newest = token;
  for (let late = 0; late < MAX_LATE; late++) {
    newest = next(newest);
    const state = await stateOf(manager, newest);
    if (!state) return undefined;
    if (state === 'good') return newest;
  }
  return undefined;
}

async function replaceToken(
  manager: EntityManager,
  token: string,
  successor: string,
  sessionId: string,
  actor: Actor,
): Promise<string> {
  // Not now(), the start of the transaction: it may have waited, and the grace begins after the wait.
  await execute(manager, 'UPDATE refresh_tokens SET replaced_at = clock_timestamp() WHERE token_hash = $1', [
    hashSecret(token),
  ]);
  // An unsealed token that is older than any session can be needs no hash any more.
  await execute(
    manager,
    `DELETE FROM refresh_tokens
     WHERE session_id = $1 AND replaced_at < now() - $2 * interval '1 second'
       AND (sealed OR replaced_at < now() - $3 * interval '1 day')`,
    [sessionId, KEPT_SECONDS, SESSION_DAYS],
  );
  await insertToken(manager, sessionId, successor);
  await execute(
    manager,
    `UPDATE sessions SET last_used_at = now(), expires_at = now() + $2 * interval '1 day', address = $3,
       user_agent = $4
     WHERE id = $1`,
    [sessionId, SESSION_DAYS, actor.address ?? null, actor.userAgent ?? null],
  );
  return successor;
}

/** Stores the hash of a session's current token. */
export async function insertToken(manager: EntityManager, sessionId: string, token: string): Promise<void> {
  await execute(
    manager,
    'INSERT INTO refresh_tokens (token_hash, session_id, sealed) VALUES ($1, $2, true)',
    [hashSecret(token), sessionId],
  );
}
