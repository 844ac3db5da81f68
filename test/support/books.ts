import { registerUser, type TestUser } from './client.js';
import type { TestDatabase } from './database.js';
import { send } from './sign-in.js';

/** Rows of users, with what they really hold, where that is not what their row says. */
const WRONG_USERS = `
  SELECT id, used_bytes, used_files, held.* FROM users, LATERAL (
    SELECT coalesce(sum(bytes), 0) AS bytes, count(*) AS files FROM (
      SELECT reserved_bytes AS bytes FROM uploads WHERE owner_id = users.id AND status = 'uploading'
      UNION ALL
      SELECT size FROM files WHERE owner_id = users.id AND deleted_at IS NULL
    ) AS one
  ) AS held
  WHERE (used_bytes, used_files) IS DISTINCT FROM (held.bytes, held.files)`;

/** Uploads under way that have less reserved than is stored of them, or not just what they will have in the end. */
const WRONG_UPLOADS = `
  SELECT id, reserved_bytes, "offset", length FROM uploads
  WHERE status = 'uploading' AND (reserved_bytes < "offset" OR reserved_bytes <> length)`;

/**
 * Compares what the users' rows count with the uploads and files that there are. Each is one statement, and whatever
 * changes one side changes the other in the same transaction: it must hold at every moment, not only when all is quiet.
 */
export async function expectBooksRight({ query }: Pick<TestDatabase, 'query'>): Promise<void> {
  expect((await query(WRONG_USERS)).rows).toEqual([]);
  expect((await query(WRONG_UPLOADS)).rows).toEqual([]);
}

/** What a user holds, as they are told. */
export async function usageOf(user: TestUser): Promise<{ bytes: number; files: number }> {
  return (await user.get('/api/me')).usage;
}

/** Numbers, null for no limit, or 'default'. */
export interface WantedQuota {
  maxBytes?: number | null | 'default';
  maxFiles?: number | null | 'default';
}

/** Of which what is left out stays as it is. */
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
