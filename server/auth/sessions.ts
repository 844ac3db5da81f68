import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import type { Role, User } from '../../core/database/entities/user.js';
import { execute, queryEntities, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { SignedInActor } from './principal.js';
import { insertToken, lockSessionOf, newTokenKey, type OpenSession, SESSION_DAYS } from './refresh-tokens.js';
import { RefusedError } from './refusals.js';
import { newSecret } from './secrets.js';
import { sealToken } from './token-seal.js';

/* Opens, lists and ends sessions. refresh-tokens.ts continues them. */

/** How many expired sessions each sign-in deletes. */
const CLEARED_AT_ONCE = 20;

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

/** The sessions of one user, last used first. */
export async function listSessions(database: DataSource, userId: string): Promise<Session[]> {
  return queryEntities(
    database,
    Session,
    'SELECT * FROM sessions WHERE user_id = $1 AND expires_at > now() ORDER BY last_used_at DESC',
    [userId],
  );
}

/** Ends the session of a refresh token, even of a replaced one; does nothing if there is none. */
export async function closeSession(database: DataSource, token: string, actor: Actor): Promise<void> {
  await database.transaction(async (manager) => {
    const session = await lockSessionOf(manager, token);
    if (!session) return;
    const { id: sessionId, userId } = session;
    await manager.delete(Session, { id: sessionId });
    await appendEvents(manager, [
      { type: 'auth.logout', subjectId: userId, ownerId: userId, actor: { ...actor, userId, sessionId } },
    ]);
  });
}

/**
 * The current role of a user, if the account and the session still exist.
 * @throws {AppError} unauthenticated when the account is gone or disabled, or the session has ended
 */
export async function getRoleNow(
  manager: EntityManager,
  { userId, sessionId }: Pick<SignedInActor, 'userId' | 'sessionId'>,
): Promise<Role> {
  const [user] = await queryRows<{ role: Role; disabled: boolean; ended: boolean }>(
    manager,
    `SELECT role, disabled_at IS NOT NULL AS disabled,
       $2::uuid IS NOT NULL AND NOT EXISTS (
         SELECT FROM sessions WHERE id = $2 AND user_id = users.id AND expires_at > now()
       ) AS ended
     FROM users WHERE id = $1`,
    [userId, sessionId ?? null],
  );
  if (!user) throw new AppError('unauthenticated', { detail: 'This account does not exist any more' });
  if (user.disabled) throw new AppError('unauthenticated', { detail: 'This account is disabled' });
  if (user.ended) throw new AppError('unauthenticated', { detail: 'This session has ended: sign in again' });
  return user.role;
}

/**
 * Like getRoleNow(), but the result holds until the end of the transaction, because it locks the row of the
 * user. A change of the password or of the account, and a request that ends sessions, wait for the lock. A
 * sign-out and the end of a session by a reused refresh token do not wait. Use it for changes that would
 * outlast a session that ends meanwhile.
 * @throws {AppError} unauthenticated
 */
export async function lockAccount(manager: EntityManager, actor: SignedInActor): Promise<Role> {
  // A separate statement: the next one sees the changes of the transactions for which this one waited.
  await execute(manager, 'SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE', [actor.userId]);
  return getRoleNow(manager, actor);
}

interface Which {
  only?: string | undefined;
  except?: string | undefined;
}

/**
 * Like revokeSessions(), but for the caller's own sessions and in its own transaction.
 * @throws {AppError} not_found when there is no such session; unauthenticated
 */
export async function endSessions(database: DataSource, actor: SignedInActor, which: Which): Promise<void> {
  const ended = await database.transaction(async (manager) => {
    await lockAccount(manager, actor);
    return revokeSessions(manager, actor.userId, actor, which);
  });
  if (which.only !== undefined && ended === 0) throw new AppError('not_found');
}

/**
 * Ends sessions of one user. Their refresh tokens are invalid at once. Their access tokens cannot change the
 * account any more (see authenticate.ts) and expire within minutes. The caller must have locked the row of
 * the user.
 * @param which only one session, or all except one; empty: all
 * @returns the number of ended sessions
 */
export async function revokeSessions(
  manager: EntityManager,
  userId: string,
  actor: Actor,
  which: Which = {},
): Promise<number> {
  const revoked = await queryEntities(
    manager,
    Session,
    `DELETE FROM sessions
     WHERE user_id = $1 AND ($2::uuid IS NULL OR id = $2) AND ($3::uuid IS NULL OR id <> $3) RETURNING *`,
    [userId, which.only ?? null, which.except ?? null],
  );
  await appendEvents(
    manager,
    revoked.map(({ id }) => ({ type: 'session.revoked', subjectId: id, ownerId: userId, actor })),
  );
  return revoked.length;
}
