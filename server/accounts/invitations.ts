import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Invitation } from '../../core/database/entities/invitation.js';
import { countChanged, queryEntities, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { SignedInActor } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import { hashSecret, newSecret } from '../auth/secrets.js';
import { lockAccount } from '../auth/sessions.js';

export interface NewInvitation {
  /** Undefined: valid for any address. */
  email?: string | undefined;
  expiresInHours: number;
}

/**
 * Creates an invitation to register. Its token is returned here and stored nowhere.
 * @throws {AppError} unauthenticated or forbidden when the caller is no longer an admin
 */
export async function createInvitation(
  database: DataSource,
  { email, expiresInHours }: NewInvitation,
  actor: SignedInActor,
): Promise<{ invitation: Invitation; token: string }> {
  const token = newSecret();
  const invitation = await database.transaction(async (manager) => {
    if ((await lockAccount(manager, actor)) !== 'admin') {
      throw new RefusedError('forbidden', { action: 'admin' });
    }
    const id = uuidv7();
    await manager.insert(Invitation, {
      id,
      tokenHash: hashSecret(token),
      email: email?.toLowerCase() ?? null,
      expiresAt: new Date(Date.now() + expiresInHours * 3_600_000),
    });
    await appendEvents(manager, [
      { type: 'invitation.created', subjectId: id, ownerId: actor.userId, actor },
    ]);
    return manager.findOneByOrFail(Invitation, { id });
  });
  return { invitation, token };
}

/** Usable invitations, newest first. */
export async function listInvitations(database: DataSource): Promise<Invitation[]> {
  return queryEntities(
    database,
    Invitation,
    'SELECT * FROM invitations WHERE used_at IS NULL AND expires_at > now() ORDER BY id DESC',
    [],
  );
}

/** @throws {AppError} not_found */
export async function revokeInvitation(
  database: DataSource,
  id: string,
  actor: SignedInActor,
): Promise<void> {
  await database.transaction(async (manager) => {
    const deleted = await countChanged(manager, 'DELETE FROM invitations WHERE id = $1 AND used_at IS NULL', [
      id,
    ]);
    if (deleted === 0) throw new AppError('not_found');
    await appendEvents(manager, [
      { type: 'invitation.revoked', subjectId: id, ownerId: actor.userId, actor },
    ]);
  });
}

/** Condition for a usable invitation: $1 is the hash of its token, $2 the address of the new account. */
const USABLE = 'token_hash = $1 AND used_at IS NULL AND expires_at > now() AND (email IS NULL OR email = $2)';

const NOT_USABLE = 'The invitation is not valid for this address, was used before, or has expired';

/** @throws {AppError} registration_closed when this invitation does not admit this address */
export async function checkInvitation(
  manager: EntityManager,
  token: string | undefined,
  email: string,
): Promise<void> {
  if (!token) throw notInvited('An invitation is needed to register here');
  const found = await queryRows(manager, `SELECT FROM invitations WHERE ${USABLE}`, [
    hashSecret(token),
    email,
  ]);
  if (found.length === 0) throw notInvited(NOT_USABLE);
}

/**
 * Uses an invitation; each works once. Part of the caller's transaction.
 * @param isNeeded whether registration requires an invitation
 * @returns its id; undefined: none was needed, and the token was missing or invalid
 * @throws {AppError} registration_closed
 */
export async function useInvitation(
  manager: EntityManager,
  token: string | undefined,
  email: string,
  isNeeded: boolean,
): Promise<string | undefined> {
  const [used] = await queryEntities(
    manager,
    Invitation,
    `UPDATE invitations SET used_at = now() WHERE ${USABLE} RETURNING *`,
    [hashSecret(token ?? ''), email],
  );
  if (!used && isNeeded) throw notInvited(NOT_USABLE);
  return used?.id;
}

function notInvited(detail: string): AppError {
  return new AppError('registration_closed', { detail });
}
