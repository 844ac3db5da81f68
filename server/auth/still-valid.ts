import type { DataSource } from 'typeorm';
import { requireLiveKey } from './api-keys.js';
import type { Principal } from './principal.js';
import { getRoleNow } from './sessions.js';

/**
 * Checks in the database that a caller who was admitted before may go on: the account is not disabled, and the session
 * or the API key has not ended.
 * @throws {AppError} unauthenticated
 */
export async function requireStillValid(database: DataSource, principal: Principal): Promise<void> {
  await getRoleNow(database.manager, principal);
  if (principal.key) await requireLiveKey(database, principal.key.id);
}
