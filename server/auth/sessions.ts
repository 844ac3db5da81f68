import { createHmac, type KeyObject } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import { User } from '../../core/database/entities/user.js';
import { queryEntities } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents, type EventType } from '../../core/events.js';
import { RefusedError } from './refusals.js';
import { hashSecret, newSecret } from './secrets.js';

/*
 * Sessions and their refresh tokens (RFC 9700, 4.14.2: "refresh token rotation").
 *
 * A refresh token is opaque, kept as a hash, and good once: its use gives the next one. Whoever uses one a second time
 * is not the one whom it was given to, or that one was robbed; nobody can tell, so the whole session ends. Two tabs, or
 * a client that did not get the answer, may come with the same token at nearly the same time: for some seconds a token
 * that was just replaced gives the same successor again. That it can be given again without being kept is why it is
 * made from its predecessor by HMAC with a key of the server.
 */

export const SESSION_DAYS = 30;

/** How long the token that was just replaced still works. */
const GRACE_SECONDS = 10;

/** An open session and the refresh token that is good now, which is kept nowhere else. */
export interface OpenSession {
  id: string;
  refreshToken: string;
}

/** Opens a session for somebody who has shown who they are. */
export async function openSession(
  database: DataSource,
  userId: string,
  actor: Actor,
  event: 'auth.login' | 'auth.register',
): Promise<OpenSession> {
  const refreshToken = newSecret();
  const id = uuidv7();
  await database.transaction(async (manager) => {
    await manager.query('DELETE FROM sessions WHERE expires_at < now()');
    await manager.insert(Session, {
      id,
      userId,
      expiresAt: new Date(Date.now() + SESSION_DAYS * 86_400_000),
      address: actor.address ?? null,
      userAgent: actor.userAgent ?? null,
    });
    await insertToken(manager, id, refreshToken);
    // Registration has told of itself.
    if (event === 'auth.login') await tell(manager, event, userId, { ...actor, userId, sessionId: id });
  });
  return { id, refreshToken };
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
    // The row lock sends parallel refreshes through one after the other.
    const [row]: { session_id: string; user_id: string; replaced: boolean; in_grace: boolean }[] =
      await manager.query(
        `SELECT session_id, user_id, replaced_at IS NOT NULL AS replaced,
           replaced_at > now() - $2 * interval '1 second' AS in_grace
         FROM refresh_tokens JOIN sessions ON sessions.id = session_id
         WHERE token_hash = $1 AND expires_at > now()
         FOR UPDATE`,
        [hashSecret(token), GRACE_SECONDS],
      );
    if (!row) return undefined;
    const { session_id: id, user_id: userId } = row;
    const session = { id, refreshToken: createHmac('sha256', key).update(token).digest('base64url') };
    if (row.replaced && !row.in_grace) {
      await manager.delete(Session, { id });
      const who = { ...actor, userId, sessionId: id };
      await tell(manager, 'auth.token_reused', userId, who, { result: 'refused' });
      wasReused = true;
      return undefined;
    }
    const user = await manager.findOneByOrFail(User, { id: userId });
    if (user.disabledAt) return undefined;
    if (!row.replaced) await replaceToken(manager, token, session, actor);
    return { user, session };
  });
  // Only now: the end of a stolen session has to be committed.
  if (found) return found;
  const detail = 'The session has ended: sign in again';
  if (wasReused) throw new AppError('unauthenticated', { detail });
  throw new RefusedError('unauthenticated', { action: 'refresh' }, detail);
}

async function replaceToken(
  manager: EntityManager,
  token: string,
  { id, refreshToken }: OpenSession,
  actor: Actor,
): Promise<void> {
  await manager.query('UPDATE refresh_tokens SET replaced_at = now() WHERE token_hash = $1', [
    hashSecret(token),
  ]);
  // What is older than a session can be is not missed.
  await manager.query(
    `DELETE FROM refresh_tokens WHERE session_id = $1 AND replaced_at < now() - $2 * interval '1 day'`,
    [id, SESSION_DAYS],
  );
  await insertToken(manager, id, refreshToken);
  await manager.query(
    `UPDATE sessions SET last_used_at = now(), expires_at = now() + $2 * interval '1 day', address = $3,
       user_agent = $4
     WHERE id = $1`,
    [id, SESSION_DAYS, actor.address ?? null, actor.userAgent ?? null],
  );
}

async function insertToken(manager: EntityManager, sessionId: string, token: string): Promise<void> {
  await manager.query('INSERT INTO refresh_tokens (token_hash, session_id) VALUES ($1, $2)', [
    hashSecret(token),
    sessionId,
  ]);
}

/** Ends the session that a refresh token belongs to, also one that was replaced; no error if there is none. */
export async function closeSession(database: DataSource, token: string, actor: Actor): Promise<void> {
  await database.transaction(async (manager) => {
    const [closed] = await queryEntities(
      manager,
      Session,
      `DELETE FROM sessions WHERE id = (SELECT session_id FROM refresh_tokens WHERE token_hash = $1) RETURNING *`,
      [hashSecret(token)],
    );
    if (!closed) return;
    const who = { ...actor, userId: closed.userId, sessionId: closed.id };
    await tell(manager, 'auth.logout', closed.userId, who);
  });
}

/** Of one user, last used first. */
export async function listSessions(database: DataSource, userId: string): Promise<Session[]> {
  return queryEntities(
    database.manager,
    Session,
    'SELECT * FROM sessions WHERE user_id = $1 AND expires_at > now() ORDER BY last_used_at DESC',
    [userId],
  );
}

/**
 * Ends sessions of one user: their refresh tokens are dead at once, access tokens after their minutes.
 * @param which the one, or all but one; neither: all
 * @returns how many
 */
export async function revokeSessions(
  manager: EntityManager,
  userId: string,
  actor: Actor,
  which: { only?: string | undefined; except?: string | undefined } = {},
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

async function tell(
  manager: EntityManager,
  type: EventType,
  userId: string,
  actor: Actor,
  { result = 'ok' }: { result?: 'ok' | 'refused' } = {},
): Promise<void> {
  await appendEvents(manager, [{ type, subjectId: userId, ownerId: userId, actor, result }]);
}
