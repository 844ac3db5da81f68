import { createHmac, type KeyObject, randomBytes } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import { User } from '../../core/database/entities/user.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import { RefusedError } from './refusals.js';
import { hashSecret, newSecret } from './secrets.js';
import { isSealed, namedSession, sealToken } from './token-seal.js';

/*
 * Sessions are opened with a refresh token and go on by exchanging it (RFC 9700, 4.14.2: "refresh token rotation").
 *
 * A refresh token is opaque, kept as a hash, and good once: its use gives the next one. Whoever uses one a second time
 * is not the one whom it was given to, or that one was robbed; nobody can tell, so the whole session ends. Two tabs, or
 * a client that did not get the answer, may come with the same token at nearly the same time: for some seconds a token
 * that was just replaced gives its successor again, or what has come of that since. That it can be given again without
 * being kept is why it is made from its predecessor by HMAC with a key of the server.
 *
 * Hashes are kept of the token that is good and of those that were replaced in the last minute. An older one is known by
 * its seal (token-seal.ts). Tokens of earlier versions have none: their hashes are kept for as long as a session may last.
 *
 * Whatever changes a session or its tokens locks the session's row first, so that no two wait for each other.
 */

export const SESSION_DAYS = 30;

/** How long the token that was just replaced still works. */
const GRACE_SECONDS = 10;

/** How long the hash of a sealed token is kept after its replacement: longer than any request that came in its grace. */
const KEPT_SECONDS = 60;

/** So many exchanges may lie between a token that comes late and the newest one. */
const MAX_LATE = 20;

/** Each sign-in clears so many sessions away that have run out. */
const CLEARED_AT_ONCE = 20;

/** An open session and the refresh token that is good now, which is kept nowhere else. */
export interface OpenSession {
  id: string;
  refreshToken: string;
}

/**
 * Opens a session for somebody who has shown who they are.
 * @param user as it was then
 * @throws {AppError} wrong_credentials when the account was locked out since, or got another password
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
    // The lock lasts until the session can be seen: whoever ends all sessions of the account ends this one too.
    const unchanged: unknown[] = await manager.query(
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
    // Registration has told of itself.
    if (event === 'auth.register') return;
    const who = { ...actor, userId, sessionId: id };
    await appendEvents(manager, [{ type: event, subjectId: userId, ownerId: userId, actor: who }]);
  });
  return { id, refreshToken };
}

/** Those that somebody else clears away at this moment are left to them. */
async function clearExpired(manager: EntityManager): Promise<void> {
  await manager.query(
    `DELETE FROM sessions WHERE id IN
       (SELECT id FROM sessions WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    [CLEARED_AT_ONCE],
  );
}

/**
 * Exchanges a refresh token for the next one.
 * @throws {AppError} unauthenticated; a token that was used before ends its session
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
  // Only now: the end of a stolen session has to be committed.
  if (found) return found;
  const detail = 'The session has ended: sign in again';
  if (wasReused) throw new AppError('unauthenticated', { detail });
  throw new RefusedError('unauthenticated', { action: 'refresh' }, detail);
}

interface LockedSession {
  id: string;
  userId: string;
  /** Whether its time is not over yet. */
  isOpen: boolean;
  tokenKey: Buffer | null;
  /** Of the token that it was found by. */
  state: TokenState;
}

/**
 * Locks the session that a token was given out in, however long ago: parallel refreshes of one session go through one
 * after the other.
 * @returns undefined if there is none
 */
export async function lockSessionOf(
  manager: EntityManager,
  token: string,
): Promise<LockedSession | undefined> {
  const [row]: { id: string; user_id: string; is_open: boolean; token_key: Buffer | null }[] =
    await manager.query(
      `SELECT id, user_id, expires_at > now() AS is_open, token_key FROM sessions
       WHERE id = coalesce((SELECT session_id FROM refresh_tokens WHERE token_hash = $1), $2) FOR UPDATE`,
      [hashSecret(token), namedSession(token) ?? null],
    );
  if (!row) return undefined;
  const { id, user_id: userId, is_open: isOpen, token_key: tokenKey } = row;
  let state = await stateOf(manager, token);
  // Its hash is not kept any more.
  if (!state && tokenKey && isSealed(token, tokenKey)) state = 'used';
  return state && { id, userId, isOpen, tokenKey, state };
}

type TokenState = 'good' | 'just replaced' | 'used';

/** A statement of its own, after the lock: it sees what those have done for whom that has waited. */
async function stateOf(manager: EntityManager, token: string): Promise<TokenState | undefined> {
  const [row]: { state: TokenState }[] = await manager.query(
    `SELECT CASE WHEN replaced_at IS NULL THEN 'good'
                 WHEN replaced_at > now() - $2 * interval '1 second' THEN 'just replaced'
                 ELSE 'used' END AS state
     FROM refresh_tokens WHERE token_hash = $1`,
    [hashSecret(token), GRACE_SECONDS],
  );
  return row?.state;
}

/** What follows a token, always the same. */
type Successor = (token: string) => string;

/** Sessions that were opened by an earlier version get their key now. */
async function createSuccessor(
  manager: EntityManager,
  key: KeyObject,
  { id, tokenKey }: LockedSession,
): Promise<Successor> {
  const sealKey = tokenKey ?? newTokenKey();
  if (!tokenKey) await manager.query('UPDATE sessions SET token_key = $2 WHERE id = $1', [id, sealKey]);
  return (token) => sealToken(createHmac('sha256', key).update(token).digest('base64url'), id, sealKey);
}

function newTokenKey(): Buffer {
  return randomBytes(32);
}

/** What has come of a token that was just replaced; undefined if the key of the server is another by now. */
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
  // Not now(), which is when the transaction began: it may have waited, and the grace is for those who come after it.
  await manager.query('UPDATE refresh_tokens SET replaced_at = clock_timestamp() WHERE token_hash = $1', [
    hashSecret(token),
  ]);
  // One without a seal that is older than a session can be is not missed.
  await manager.query(
    `DELETE FROM refresh_tokens
     WHERE session_id = $1 AND replaced_at < now() - $2 * interval '1 second'
       AND (sealed OR replaced_at < now() - $3 * interval '1 day')`,
    [sessionId, KEPT_SECONDS, SESSION_DAYS],
  );
  await insertToken(manager, sessionId, successor);
  await manager.query(
    `UPDATE sessions SET last_used_at = now(), expires_at = now() + $2 * interval '1 day', address = $3,
       user_agent = $4
     WHERE id = $1`,
    [sessionId, SESSION_DAYS, actor.address ?? null, actor.userAgent ?? null],
  );
  return successor;
}

async function insertToken(manager: EntityManager, sessionId: string, token: string): Promise<void> {
  await manager.query('INSERT INTO refresh_tokens (token_hash, session_id, sealed) VALUES ($1, $2, true)', [
    hashSecret(token),
    sessionId,
  ]);
}
