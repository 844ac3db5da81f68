import { registerUser, type TestUser } from './client.js';
import type { TestDatabase } from './database.js';
import { send } from './sign-in.js';

/** The users whose counts differ from the uploads and files that they really hold. */
const WRONG_USERS = `
  SELECT id, used_bytes, used_files, held.* FROM users, LATERAL (
    SELECT coalesce(sum(bytes), 0) AS bytes, coalesce(sum(files), 0) AS files FROM (
      SELECT reserved_bytes AS bytes, (kind <> 'partial')::integer AS files
      FROM uploads WHERE owner_id = users.id AND status = 'uploading'
      UNION ALL
      SELECT size, 1 FROM files WHERE owner_id = users.id AND deleted_at IS NULL
    ) AS one
  ) AS held
  WHERE (used_bytes, used_files) IS DISTINCT FROM (held.bytes, held.files)`;

/** The uploads under way that have reserved less than their offset, or not exactly their length. */
const WRONG_UPLOADS = `
  SELECT id, reserved_bytes, "offset", length FROM uploads
  WHERE status = 'uploading' AND (reserved_bytes < "offset" OR reserved_bytes <> length)`;

/** The users whose count of saved bytes differs from what their files really share. */
const WRONG_SAVINGS = `
  SELECT id, saved_bytes, held.* FROM users, LATERAL (
    SELECT coalesce(sum(shared.size * (shared.files - 1)), 0) AS bytes FROM (
      SELECT blobs.size, count(*) AS files FROM files JOIN blobs ON blobs.id = blob_id
      WHERE owner_id = users.id GROUP BY blobs.id
    ) AS shared
  ) AS held
  WHERE saved_bytes <> held.bytes`;

/**
 * Compares the counts in the users' rows with the uploads and files that exist. Each check is one statement,
 * and every transaction changes both sides, so the checks must hold at every moment, not only when all is
 * quiet.
 */
export async function expectBooksRight({ query }: Pick<TestDatabase, 'query'>): Promise<void> {
  expect((await query(WRONG_USERS)).rows).toEqual([]);
  expect((await query(WRONG_UPLOADS)).rows).toEqual([]);
  expect((await query(WRONG_SAVINGS)).rows).toEqual([]);
}

/** The usage of a user, as the server reports it. */
export async function usageOf(user: TestUser): Promise<{ bytes: number; files: number }> {
  return (await user.get('/api/me')).usage;
}

/** Numbers, null for no limit, or 'default'. */
export interface WantedQuota {
  maxBytes?: number | null | 'default';
  maxFiles?: number | null | 'default';
}

/** Sets the quota of a user; a field that is left out stays as it is. */
export async function setQuota(admin: TestUser, user: TestUser, quota: WantedQuota): Promise<Response> {
  const answer = await send(admin, 'PATCH', `/api/admin/users/${user.id}`, quota);
  expect(answer.status).toBe(200);
  return answer;
}

/** A new account on the server at `url()`; without a quota it has that of the configuration. */
export async function userWithQuota(
  url: () => string,
  admin: TestUser,
  quota?: WantedQuota,
): Promise<TestUser> {
  const user = await registerUser(url);
  if (quota) await setQuota(admin, user, quota);
  return user;
}

/** Asks for an upload of `length` bytes, which may be refused. */
export const askFor = (user: TestUser, length: number): Promise<Response> =>
  user.tus('POST', '/uploads', { 'Upload-Length': String(length) });
