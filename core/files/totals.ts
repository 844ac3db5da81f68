import type { DataSource } from 'typeorm';
import { execute, queryRows } from '../database/rows.js';

/*
 * Counts of files by owner, status and type, which no request has to count. A trigger notes each change of a file in
 * file_changes, within the change's own transaction (migrations/1763950000003-file-totals.ts). The worker adds the changes
 * to the sums in file_totals and file_hours and deletes them, in one statement. So the sums and the changes together are
 * exact at any moment, whoever crashes, and no two uploads wait for the same row. Single rows of file_totals may be wrong, even
 * negative, while changes wait: never read them alone.
 */

/** Changes that are added at a time. */
const BATCH = 10_000;

/** Hours of which nothing is told any more. */
const KEPT = `interval '2 days'`;

/** Adds the noted changes to the sums. Any number of processes may do so at once. @returns how many there were */
export async function addChanges(database: DataSource): Promise<number> {
  let added = 0;
  for (;;) {
    const [batch] = await queryRows<{ count: number; owners: string[] }>(
      database,
      // Rows are locked in the order of their keys, so that two processes cannot block each other.
      `WITH taken AS (
         DELETE FROM file_changes
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM file_changes LIMIT ${BATCH} FOR UPDATE SKIP LOCKED))
         RETURNING *
       ), totals AS (
         INSERT INTO file_totals (owner_id, trashed, status, type, files, bytes)
         SELECT owner_id, trashed, status, type, sum(files), sum(bytes) FROM taken
         GROUP BY owner_id, trashed, status, type ORDER BY owner_id, trashed, status, type
         ON CONFLICT (owner_id, trashed, status, type) DO UPDATE
         SET files = file_totals.files + excluded.files, bytes = file_totals.bytes + excluded.bytes
       ), hours AS (
         INSERT INTO file_hours (owner_id, hour, outcome, ms_class, files, bytes, ms)
         SELECT owner_id, date_trunc('hour', at), outcome, coalesce(ms_class, -1), sum(files), sum(bytes),
                coalesce(sum(ms), 0)
         FROM taken WHERE outcome IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
         ON CONFLICT (owner_id, hour, outcome, ms_class) DO UPDATE
         SET files = file_hours.files + excluded.files, bytes = file_hours.bytes + excluded.bytes,
             ms = file_hours.ms + excluded.ms
       )
       SELECT count(*)::int AS count, coalesce(array_agg(DISTINCT owner_id), '{}') AS owners FROM taken`,
      [],
    );
    const { count = 0, owners = [] } = batch ?? {};
    added += count;
    // A type that no file has any more needs no row: clients may declare any number of types.
    if (count > 0) {
      await execute(
        database,
        'DELETE FROM file_totals WHERE owner_id = ANY ($1) AND files = 0 AND bytes = 0',
        [owners],
      );
    }
    if (count < BATCH) break;
  }
  await execute(database, `DELETE FROM file_hours WHERE hour < now() - ${KEPT}`);
  return added;
}
