import type { DataSource } from 'typeorm';
import { validate as isUuid, v7 as uuidv7 } from 'uuid';
import { User } from '../../core/database/entities/user.js';
import { execute } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';

/*
 * The accounts that a hook names as owners with AUTH=hook. A UUID is the id of an account that exists, for example the one
 * whose API key the operator's application uses. Any other text is the operator's own name for a person; its first
 * upload makes an account for it. Nobody can sign in to such an account, so none of them is ever an admin's, and they do
 * not count as the first account.
 */

/** In the column for ids of an identity provider, which are JSON arrays. */
export const HOOK_ID_PREFIX = 'hook:';

/** Text that PostgreSQL stores unchanged, and that shows as it is. */
const NAME = /^\P{C}{1,255}$/u;

/** Returns the id of the account that a hook names. @throws {AppError} hook_unusable */
export async function findOrCreateOwner(database: DataSource, name: string): Promise<string> {
  const users = database.getRepository(User);
  if (isUuid(name)) {
    if (await users.existsBy({ id: name })) return name.toLowerCase();
    throw unusable('Owner is the id of no account');
  }
  if (!NAME.test(name)) throw unusable('Owner must be visible text of at most 255 characters');
  const externalId = HOOK_ID_PREFIX + name;
  const known = await users.findOneBy({ externalId });
  if (known) return known.id;
  return database.transaction(async (manager) => {
    const id = uuidv7();
    await execute(
      manager,
      `INSERT INTO users (id, email, password_hash, external_id, role) VALUES ($1, $2, NULL, $3, 'user')
       ON CONFLICT (external_id) DO NOTHING`,
      [id, name.toLowerCase(), externalId],
    );
    const user = await manager.findOneByOrFail(User, { externalId });
    if (user.id === id) {
      await appendEvents(manager, [
        { type: 'auth.register', subjectId: id, ownerId: id, data: { role: 'user' }, actor: { userId: id } },
      ]);
    }
    return user.id;
  });
}

function unusable(what: string): AppError {
  return new AppError('hook_unusable', {
    detail: `The hook of this server names an owner that cannot be: ${what}`,
  });
}
