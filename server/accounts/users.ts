import type { DataSource } from 'typeorm';
import { type Role, User } from '../../core/database/entities/user.js';
import { queryEntities, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { SignedInActor } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import { getRoleNow, revokeSessions } from '../auth/sessions.js';
import { isLocalAccount } from './local-account.js';

/** The changes of an account by an admin; undefined leaves a value as it is. */
export interface UserChange {
  role?: Role | undefined;
  disabled?: boolean | undefined;
  /** Bytes; -1: no limit; null: the default. */
  maxBytes?: number | null | undefined;
  maxFiles?: number | null | undefined;
}

/** Lists all accounts, oldest first. @param after id of the last account of the previous page */
export async function listUsers(
  database: DataSource,
  after: string | undefined,
  limit: number,
): Promise<User[]> {
  return queryEntities(
    database,
    User,
    'SELECT * FROM users WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2',
    [after ?? null, limit],
  );
}

/** How many accounts there are; `admins` are those that are not disabled. */
export async function countUsers(
  database: DataSource,
): Promise<{ total: number; admins: number; disabled: number }> {
  const [row] = await queryRows<{ total: number; admins: number; disabled: number }>(
    database,
    `SELECT count(*)::float8 AS total, count(disabled_at)::float8 AS disabled,
            count(*) FILTER (WHERE role = 'admin' AND disabled_at IS NULL)::float8 AS admins
     FROM users`,
  );
  return row ?? { total: 0, admins: 0, disabled: 0 };
}

/**
 * Changes an account. A user who is disabled or gets another role is signed out everywhere.
 * @throws {AppError} not_found; wrong_state when no admin would be left; unauthenticated or forbidden when
 * the caller is no longer an admin
 */
export async function changeUser(
  database: DataSource,
  id: string,
  change: UserChange,
  actor: SignedInActor,
): Promise<User> {
  return database.transaction(async (manager) => {
    // Lock all admins, so that the last two cannot remove each other at the same moment.
    const locked = await queryEntities(
      manager,
      User,
      `SELECT * FROM users WHERE id = $1 OR role = 'admin' ORDER BY id FOR NO KEY UPDATE`,
      [id],
    );
    // Another admin may have disabled or demoted the caller meanwhile.
    if ((await getRoleNow(manager, actor)) !== 'admin') {
      throw new RefusedError('forbidden', { action: 'admin', subjectId: id });
    }
    const user = locked.find((one) => one.id === id);
    if (!user) throw new AppError('not_found');
    const role = change.role ?? user.role;
    const disabledAt =
      change.disabled === undefined
        ? user.disabledAt
        : change.disabled
          ? (user.disabledAt ?? new Date())
          : null;
    const others = locked.filter(
      (one) => one.id !== id && one.role === 'admin' && !one.disabledAt && !isLocalAccount(one),
    );
    if (others.length === 0 && user.role === 'admin' && (role !== 'admin' || disabledAt)) {
      throw new AppError('wrong_state', { detail: 'This is the only admin: make another one first' });
    }
    const { maxBytes = user.maxBytes, maxFiles = user.maxFiles } = change;
    const isQuotaSet = change.maxBytes !== undefined || change.maxFiles !== undefined;
    await manager.update(
      User,
      { id },
      { role, disabledAt, maxBytes, maxFiles, ...(isQuotaSet ? { quotaChangedAt: () => 'now()' } : {}) },
    );
    await appendEvents(manager, [
      { type: 'user.changed', subjectId: id, ownerId: id, data: { ...change }, actor },
    ]);
    const isLessTrusted = role !== user.role || (disabledAt && !user.disabledAt);
    if (isLessTrusted) await revokeSessions(manager, id, actor);
    return manager.findOneByOrFail(User, { id });
  });
}
