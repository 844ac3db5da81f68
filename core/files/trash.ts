import type { DataSource } from 'typeorm';
import type { Quota } from '../config.js';
import { queryRows } from '../database/rows.js';

/* The trash beyond the quota. The trash does not count against the quota, and may hold as much again. */

/** Files that are found in the trash at a time. */
const TRASH_BATCH = 1000;

/** Longer than any transaction lasts: deletions of transactions that began before are visible. */
const SLACK = `interval '10 minutes'`;

/** Owners whose trash is looked at together. */
const OWNERS_BATCH = 100;

/**
 * Owners whose trash may have grown, or whose quota was changed, since a time. In batches.
 * @param since a time of the database; undefined: all owners who have files in the trash
 */
export async function* listTrashOwners(
  database: DataSource,
  since: string | undefined,
): AsyncGenerator<string[]> {
  const owners =
    since === undefined
      ? 'SELECT owner_id AS id FROM files WHERE deleted_at IS NOT NULL AND $1::text IS NULL'
      : `SELECT owner_id AS id FROM files WHERE deleted_at >= $1::timestamptz - ${SLACK}
         UNION ALL SELECT id FROM users WHERE quota_changed_at >= $1::timestamptz - ${SLACK}`;
  let after: string | null = null;
  do {
    const found: { id: string }[] = await queryRows(
      database,
      `SELECT DISTINCT id FROM (${owners}) AS owner WHERE $2::uuid IS NULL OR id > $2 ORDER BY id
       LIMIT ${OWNERS_BATCH}`,
      [since ?? null, after],
    );
    if (found.length > 0) yield found.map(({ id }) => id);
    after = found.length === OWNERS_BATCH ? (found.at(-1)?.id ?? null) : null;
  } while (after !== null);
}

/**
 * Uploads whose files exceed the trash's limit. The trash may hold as much as the quota, and keeps the newest files.
 * @param owners whose trash is looked at
 * @returns ids, in batches; the caller must purge each batch before it asks for the next one
 */
export async function* listTrashBeyondQuota(
  database: DataSource,
  quota: Quota,
  owners: string[],
): AsyncGenerator<string[]> {
  let found: { id: string }[];
  do {
    found = await queryRows(
      database,
      `SELECT trash.id
       FROM users, LATERAL (
         SELECT coalesce(max_bytes, $1::bigint) AS bytes, coalesce(max_files, $2::bigint) AS files
       ) AS most, LATERAL (
         SELECT id, sum(size) OVER newest AS bytes, row_number() OVER newest AS files
         FROM files WHERE owner_id = users.id AND deleted_at IS NOT NULL
         WINDOW newest AS (ORDER BY deleted_at DESC, id DESC)
       ) AS trash
       WHERE users.id = ANY ($3)
         AND ((most.bytes >= 0 AND trash.bytes > most.bytes) OR (most.files >= 0 AND trash.files > most.files))
       LIMIT ${TRASH_BATCH}`,
      [quota.bytes, quota.files, owners],
    );
    if (found.length > 0) yield found.map(({ id }) => id);
  } while (found.length === TRASH_BATCH);
}
