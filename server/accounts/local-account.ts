import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { ConfigError } from '../../core/config-error.js';
import { User } from '../../core/database/entities/user.js';
import { execute, queryRows } from '../../core/database/rows.js';
import { appendEvents } from '../../core/events/append.js';
import { HOOK_ID_PREFIX } from './hook-accounts.js';

/*
 * The account in whose name all requests act with AUTH=off. It is an admin's, and has its own files. Nobody can sign in to
 * it. With AUTH=on it counts neither as the first account nor as an admin, because that would lock everybody out.
 */

/** In the column for ids of an identity provider, which are JSON arrays. */
const LOCAL_ID = 'local';

/** The name that it shows. */
const LOCAL_NAME = 'local@localhost';

export function isLocalAccount({ externalId }: Pick<User, 'externalId'>): boolean {
  return externalId === LOCAL_ID;
}

/** Whether there is any account that somebody can sign in to. */
export async function isAnybodyRegistered(manager: EntityManager): Promise<boolean> {
  const [answer] = await queryRows<{ is: boolean }>(
    manager,
    `SELECT EXISTS (
       SELECT FROM users WHERE external_id IS NULL OR (external_id <> $1 AND NOT starts_with(external_id, $2))) AS is`,
    [LOCAL_ID, HOOK_ID_PREFIX],
  );
  return answer?.is ?? false;
}

/**
 * The local account, which the first start with AUTH=off creates.
 * @throws {ConfigError} when an admin has disabled it or made it an ordinary account
 */
export async function openLocalAccount(database: DataSource): Promise<User> {
  return database.transaction(async (manager) => {
    const id = uuidv7();
    await execute(
      manager,
      `INSERT INTO users (id, email, password_hash, external_id, role) VALUES ($1, $2, NULL, $3, 'admin')
       ON CONFLICT (external_id) DO NOTHING`,
      [id, LOCAL_NAME, LOCAL_ID],
    );
    const user = await manager.findOneByOrFail(User, { externalId: LOCAL_ID });
    if (user.id === id) {
      await appendEvents(manager, [
        { type: 'auth.register', subjectId: id, ownerId: id, data: { role: user.role }, actor: {} },
      ]);
    }
    if (user.disabledAt || user.role !== 'admin') {
      throw new ConfigError(
        `AUTH=off: an admin has disabled the account ${LOCAL_NAME}, or changed its role: set AUTH=on and undo that`,
      );
    }
    return user;
  });
}
