import { createHmac, type KeyObject, randomBytes } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import { User } from '../../core/database/entities/user.js';
import { execute, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import { RefusedError } from './refusals.js';
import { hashSecret, newSecret } from './secrets.js';
import { isSealed, namedSession, sealToken } from './token-seal.js';

/*
 * A session opens with a refresh token and continues by exchanging it (RFC 9700, 4.14.2: "refresh token
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

/** How many expired sessions each sign-in deletes. */
const CLEARED_AT_ONCE = 20;

/** An open session and its current refresh token, which is stored nowhere else. */
export interface OpenSession {
  id: string;
  refreshToken: string;
}

/**
 * Opens a session for a user who has signed in or registered.
 * @param user as read at that moment
 * @throws {AppError} wrong_credentials when the account has been disabled or has got another password since
 */
export async function openSession(
  database: DataSource,
  user: User,
  actor: Actor,
  event: 'auth.login' | 'auth.register',
): Promise<OpenSession> {
  const id = uuidv7();
  const tokenKey = newTokenKey();
  const refreshToken = sealToken(newSecret(), id, tokenKey);
  const { id: userId, passwordHash } = user;
  await database.transaction(async (manager) => {
    // The lock lasts until the session is visible, so ending all sessions of the account ends this one too.
    const unchanged = await queryRows(
      manager,
      `SELECT FROM users WHERE id = $1 AND disabled_at IS NULL AND password_hash IS NOT DISTINCT FROM $2 FOR SHARE`,
      [userId, passwordHash],
    );
    if (unchanged.length === 0) {
      throw new RefusedError('wrong_credentials', { type: 'auth.login', action: 'login', subjectId: userId });
    }
    await clearExpired(manager);
    await manager.insert(Session, {
      id,
      userId,
      expiresAt: new Date(Date.now() + SESSION_DAYS * 86_400_000),
      address: actor.address ?? null,
      userAgent: actor.userAgent ?? null,
      tokenKey,
    });
    await insertToken(manager, id, refreshToken);
    // The registration has appended its own event.
    if (event === 'auth.register') return;
    const who = { ...actor, userId, sessionId: id };
    await appendEvents(manager, [{ type: event, subjectId: userId, ownerId: userId, actor: who }]);
  });
  return { id, refreshToken };
}

/** Skips rows that another transaction is deleting. */
async function clearExpired(manager: EntityManager): Promise<void> {
  await execute(
    manager,
    `DELETE FROM sessions WHERE id IN
       (SELECT id FROM sessions WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    [CLEARED_AT_ONCE],
  );
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
 * Locks the session that a token belongs to, however old the token is. The lock serialises parallel refreshes
 * of one session.
 * @returns undefined if there is no such session
 */
export async function lockSessionOf(
  manager: EntityManager,
  token: string,
): Promise<LockedSession | undefined> {
  const [row] = await queryRows<{ id: string; user_id: string; is_open: boolean; token_key: Buffer | null }>(
    manager,
    `SELECT id, user_id, expires_at > now() AS is_open, token_key FROM sessions
       WHERE id = coalesce((SELECT session_id FROM refresh_tokens WHERE token_hash = $1), $2) FOR UPDATE`,
    [hashSecret(token), namedSession(token) ?? null],
  );
  if (!row) return undefined;
  const { id, user_id: userId, is_open: isOpen, token_key: tokenKey } = row;
  let state = await stateOf(manager, token);
  // The hash of an older token is deleted; its seal proves that the token was issued.
  if (!state && tokenKey && isSealed(token, tokenKey)) state = 'used';
  return state && { id, userId, isOpen, tokenKey, state };
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

function newTokenKey(): Buffer {
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

async function insertToken(manager: EntityManager, sessionId: string, token: string): Promise<void> {
  await execute(
    manager,
    'INSERT INTO refresh_tokens (token_hash, session_id, sealed) VALUES ($1, $2, true)',
    [hashSecret(token), sessionId],
  );
}
