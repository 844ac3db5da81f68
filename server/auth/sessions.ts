import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from '../../core/database/entities/event.js';
import { Session } from '../../core/database/entities/session.js';
import { queryEntities } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events.js';
import { hashSecret } from './secrets.js';

/*
 * Where somebody is signed in, and how that ends. How it begins and goes on is in refresh-tokens.ts.
 */

/** Of one user, last used first. */
export async function listSessions(database: DataSource, userId: string): Promise<Session[]> {
  return queryEntities(
    database.manager,
    Session,
    'SELECT * FROM sessions WHERE user_id = $1 AND expires_at > now() ORDER BY last_used_at DESC',
    [userId],
  );
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
    const { id: sessionId, userId } = closed;
    await appendEvents(manager, [
      { type: 'auth.logout', subjectId: userId, ownerId: userId, actor: { ...actor, userId, sessionId } },
    ]);
  });
}

interface Which {
  only?: string | undefined;
  except?: string | undefined;
}

/** As revokeSessions(), in a transaction of its own. @throws {AppError} not_found when there is no such one */
export async function endSessions(
  database: DataSource,
  userId: string,
  actor: Actor,
  which: Which,
): Promise<void> {
  const ended = await database.transaction((manager) => revokeSessions(manager, userId, actor, which));
  if (which.only !== undefined && ended === 0) throw new AppError('not_found');
}

/**
 * Ends sessions of one user: their refresh tokens are dead at once; their access tokens cannot change anything of the
 * account any more (see authenticate.ts) and are dead after their minutes.
 * @param which the one, or all but one; neither: all
 * @returns how many
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
