import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import { IS_DUE, workThrough } from '../retries.js';
import type { Storage, StoredUpload } from '../storage/storage.js';
import { FORGET_DESCRIPTION } from './description.js';

/*
 * The reconciler's part of the ledger: it finds uploads that were left half done, expires the overdue ones, and
 * deletes what ended uploads have left in the store.
 */

/** Uploads that expire in one transaction. Until it ends, their owners cannot begin other uploads. */
const EXPIRE_BATCH = 1000;

/** Ids of uploads that have all their bytes but no file yet, because a process died in between. */
export async function listUnfinishedComplete(database: DataSource): Promise<string[]> {
  const rows = await queryRows<{ id: string }>(
    database,
    `SELECT id FROM uploads
     WHERE status = 'uploading' AND "offset" = length AND (lease_holder IS NULL OR lease_expires_at < now())
       AND ${IS_DUE}
     ORDER BY random() LIMIT 1000`,
  );
  return rows.map((row) => row.id);
}

/**
 * Marks uploads as expired that are past their expiry and have no lease. An upload whose bytes are all here still
 * becomes a file and does not expire, unless making its object failed recently and waits for the next try.
 * @returns how many expired
 */
export async function expireUploads(database: DataSource): Promise<number> {
  let total = 0;
  for (;;) {
    const expired = await expireBatch(database);
    total += expired;
    if (expired < EXPIRE_BATCH) return total;
  }
}

async function expireBatch(database: DataSource): Promise<number> {
  return database.transaction(async (manager) => {
    const expired = await queryEntities(
      manager,
      Upload,
      `WITH overdue AS (
         SELECT id FROM uploads
         WHERE status = 'uploading' AND expires_at < now()
           AND (lease_holder IS NULL OR lease_expires_at < now())
           AND ("offset" IS DISTINCT FROM length OR (object_key IS NULL AND retry_at > now()))
         ORDER BY expires_at LIMIT ${EXPIRE_BATCH} FOR NO KEY UPDATE SKIP LOCKED
       ), expired AS (
         UPDATE uploads SET status = 'expired', lease_epoch = lease_epoch + 1, failures = 0, retry_at = NULL
         FROM overdue WHERE uploads.id = overdue.id
         RETURNING uploads.*
       )
       SELECT * FROM expired`,
      [],
    );
    const ids = expired.map(({ id }) => id);
    await execute(
      manager,
      `SELECT FROM users WHERE id IN (SELECT owner_id FROM uploads WHERE id = ANY ($1)) ORDER BY id
       FOR NO KEY UPDATE`,
      [ids],
    );
    await execute(
      manager,
      `UPDATE users SET used_bytes = used_bytes - bytes, used_files = used_files - files
       FROM (
         SELECT owner_id, sum(reserved_bytes) AS bytes, count(*) AS files FROM uploads WHERE id = ANY ($1)
         GROUP BY owner_id
       ) AS held
       WHERE users.id = owner_id`,
      [ids],
    );
    await appendEvents(
      manager,
      expired.map(({ id, ownerId }) => ({ type: 'upload.expired', subjectId: id, ownerId })),
    );
    return expired.length;
  });
}

/** An upload that has left something to delete in the store. */
interface Remains extends StoredUpload {
  id: string;
  /** The object that a file refers to; null: there is none. */
  keep: string | null;
  /** Whether a client may still have an address to which it can send a part. */
  open: boolean;
  /** Whether the upload has ended without a file. */
  ended: boolean;
  /** Version of its row (xmin): it differs after each change. */
  version: string;
}

/**
 * Deletes the stored bytes of expired and terminated uploads, and what finished uploads have left besides their
 * object. Also removes the description of expired and terminated uploads.
 * @param ids only these uploads; undefined: all
 * @returns how many uploads were cleaned up
 * @throws {PassIncomplete} when some failed, after all others were cleaned up
 */
export async function discardUploads(
  deps: { database: DataSource; storage: Storage },
  ids?: string[],
): Promise<number> {
  const { database, storage } = deps;
  let last: string | null = null;
  const next = async (limit: number) => {
    const remains = await listRemains(database, last, limit, ids);
    last = remains.at(-1)?.id ?? null;
    return remains;
  };
  return workThrough(database, 'uploads', next, async (remains) => {
    // The object of a finished upload is a blob. It is deleted when no file refers to it any more.
    await storage.uploads.discard(remains, remains.keep);
    await execute(database, 'DELETE FROM upload_parts WHERE upload_id = $1', [remains.id]);
    await settle(database, remains);
  });
}

/** In order of id. @param after id of the last upload of the list before */
function listRemains(
  database: DataSource,
  after: string | null,
  limit: number,
  ids?: string[],
): Promise<Remains[]> {
  return queryRows(
    database,
    `SELECT id, storage_key AS key, "offset"::float8 AS "offset", length::float8 AS length, storage_state AS state,
       CASE WHEN finished_at IS NOT NULL THEN object_key END AS keep,
       status <> 'finished' AND coalesce(addresses_until > now(), false) AS open,
       status <> 'finished' AS ended, xmin::text AS version
     FROM uploads
     WHERE ((status IN ('expired', 'terminated') AND discarded_at IS NULL) OR (status = 'finished' AND untidy))
       AND ${IS_DUE} AND ($1::uuid IS NULL OR id > $1) AND ($3::uuid[] IS NULL OR id = ANY ($3))
     ORDER BY id LIMIT $2`,
    [after, limit, ids ?? null],
  );
}

/**
 * Records that an upload was cleaned up, unless its row has changed since it was read. A changed row may mean that
 * another process recorded a write that can still arrive, so the upload has to be cleaned up again. Where clients
 * can still send parts, the next cleanup follows when their addresses have expired.
 */
async function settle(database: DataSource, { id, version, open, ended }: Remains): Promise<void> {
  await execute(
    database,
    `UPDATE uploads SET untidy = false, failures = 0, retry_at = CASE WHEN $3 THEN addresses_until END,
       discarded_at = CASE WHEN status <> 'finished' AND NOT $3 THEN now() END
       ${ended ? `, ${FORGET_DESCRIPTION}` : ''}
     WHERE id = $1 AND xmin::text = $2`,
    [id, version, open],
  );
}
