import { v7 as uuidv7 } from 'uuid';
import type { Queryable } from './database.js';

/* Rows of users, for suites that have no server to ask, or that must not change anything else than the row. */

/** A new account that nobody can sign in to. @returns its id */
export async function insertUser(database: Queryable): Promise<string> {
  const id = uuidv7();
  await database.query(`INSERT INTO users (id, email, password_hash, role) VALUES ($1, $2, '', 'user')`, [
    id,
    `${id}@example.org`,
  ]);
  return id;
}

/** Changes a role without ending the user's sessions, which the API would do. */
export async function setRole(database: Queryable, userId: string, role: 'admin' | 'user'): Promise<void> {
  await database.query('UPDATE users SET role = $2 WHERE id = $1', [userId, role]);
}

/** Sets a user's own quota. A part that is left out stays as it is. */
export async function setRoom(
  database: Queryable,
  userId: string,
  { bytes, files }: { bytes?: number; files?: number },
): Promise<void> {
  await database.query(
    'UPDATE users SET max_bytes = coalesce($2, max_bytes), max_files = coalesce($3, max_files) WHERE id = $1',
    [userId, bytes ?? null, files ?? null],
  );
}
