import type { TestUser } from './client.js';
import type { Queryable } from './database.js';

/* The ways in which files and uploads go. Each returns the status of the answer. */

export const trash = async (user: TestUser, id: string): Promise<number> =>
  (await user.fetch(`/api/files/${id}`, { method: 'DELETE' })).status;

export const purge = async (user: TestUser, id: string): Promise<number> =>
  (await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })).status;

export const terminate = async (user: TestUser, id: string): Promise<number> =>
  (await user.tus('DELETE', `/uploads/${id}`)).status;

/** Takes a file out of the trash again. */
export const restore = async (user: TestUser, id: string): Promise<number> =>
  (await user.fetch(`/api/files/${id}/restore`, { method: 'POST' })).status;

/** Makes the requests that the store has refused due again, so that the reconciler need not wait. */
export async function letRetry(database: Queryable): Promise<void> {
  await database.query('UPDATE uploads SET retry_at = now() WHERE retry_at > now()');
  await database.query('UPDATE blobs SET retry_at = now() WHERE retry_at > now()');
}
