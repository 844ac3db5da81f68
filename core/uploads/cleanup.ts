import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { appendEvents } from '../events.js';
import type { Storage } from '../storage/storage.js';

/*
 * What the reconciler asks of the ledger: which uploads were left half done, and which are to go. It asks in random
 * order and gives up after some failures in a row: three that fail for good must not stand before all others for ever.
 */

/** A store that has failed so often in a row is asked again later. */
const MAX_FAILURES = 3;

/** Uploads that expire in one transaction: meanwhile their owners cannot begin others. */
const EXPIRE_BATCH = 1000;

/** Ids of uploads that have all their bytes but no file yet, because a process died in between. */
export async function listUnfinishedComplete(database: DataSource): Promise<string[]> {
  const rows: { id: string }[] = await database.query(
    `SELECT id FROM uploads
     WHERE status = 'uploading' AND "offset" = length AND (lease_holder IS NULL OR lease_expires_at < now())
     ORDER BY random() LIMIT 1000`,
  );
  return rows.map((row) => row.id);
}

/** Marks unfinished uploads as expired whose time is over and that nobody writes to. Returns how many. */
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
           AND "offset" IS DISTINCT FROM length
         ORDER BY expires_at LIMIT ${EXPIRE_BATCH} FOR NO KEY UPDATE SKIP LOCKED
       ), expired AS (
         UPDATE uploads SET status = 'expired', lease_epoch = lease_epoch + 1
         FROM overdue WHERE uploads.id = overdue.id
         RETURNING uploads.*
       )
       SELECT * FROM expired`,
      [],
    );
    const ids = expired.map(({ id }) => id);
    await manager.query(
      `SELECT FROM users WHERE id IN (SELECT owner_id FROM uploads WHERE id = ANY ($1)) ORDER BY id
       FOR NO KEY UPDATE`,
      [ids],
    );
    await manager.query(
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

/**
 * Deletes what is left in the store of expired and terminated uploads, and what finished ones have left besides their
 * object. What clients have called those that are gone is forgotten, too.
 * @param ids only these; undefined: all, at most 1000
 * @returns how many were put in order
 * @throws what the storage threw first, after all others were done, or after some in a row have failed
 */
export async function discardUploads(
  deps: { database: DataSource; storage: Storage },
  ids?: string[],
): Promise<number> {
  const uploads = await queryEntities(
    deps.database.manager,
    Upload,
    `SELECT * FROM uploads
     WHERE ((status IN ('expired', 'terminated') AND discarded_at IS NULL) OR (status = 'finished' AND untidy))
       AND ($1::uuid[] IS NULL OR id = ANY ($1))
     ORDER BY random() LIMIT 1000`,
    [ids ?? null],
  );
  const failures: unknown[] = [];
  let inARow = 0;
  for (const upload of uploads) {
    try {
      await discardUpload(deps, upload);
      inARow = 0;
    } catch (error) {
      failures.push(error);
      if (++inARow === MAX_FAILURES) break;
    }
  }
  if (failures.length > 0) throw failures[0];
  return uploads.length;
}

async function discardUpload(
  { database, storage }: { database: DataSource; storage: Storage },
  { id, status, untidy, storageKey, storageState, offset, length, finishedAt, objectKey }: Upload,
): Promise<void> {
  // Whoever finds meanwhile that something of his may arrive yet says it anew: then this was not the last look.
  if (untidy && status !== 'finished') {
    await database.query('UPDATE uploads SET untidy = false WHERE id = $1', [id]);
  }
  // The object of a finished upload is a blob: files refer to it, and it goes with the last of them.
  const keep = finishedAt ? objectKey : null;
  await storage.uploads.discard({ key: storageKey, state: storageState, offset, length }, keep);
  await database.query('DELETE FROM upload_parts WHERE upload_id = $1', [id]);
  await database.query(
    `UPDATE uploads SET untidy = false,
       discarded_at = CASE WHEN status <> 'finished' THEN now() END,
       metadata = CASE WHEN status = 'finished' THEN metadata ELSE '{}' END
     WHERE id = $1 AND (status = 'finished' OR NOT untidy)`,
    [id],
  );
}
