import type { DataSource, EntityManager } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { giveBack } from './end.js';

/* The pass that lets uploads expire. */

/** Uploads that expire in one transaction. Until it ends, their owners cannot begin other uploads. */
const EXPIRE_BATCH = 1000;

/**
 * Marks uploads as expired that are past their expiry and have no lease. An upload whose bytes are all here still
 * becomes a file and does not expire, unless making its object failed recently and waits for the next try. A partial
 * upload whose bytes are all here expires unless a final upload waits for other partial ones. A final upload expires when
 * one of its partial uploads has ended.
 * @returns how many expired
 */
export async function expireUploads(database: DataSource): Promise<number> {
  let total = 0;
  for (const expire of [expireBatch, expireFinals]) {
    let expired: number;
    do {
      expired = await database.transaction(expire);
      total += expired;
    } while (expired === EXPIRE_BATCH);
  }
  return total;
}

async function expireBatch(manager: EntityManager): Promise<number> {
  const expired = await queryEntities(
    manager,
    Upload,
    `WITH overdue AS (
       SELECT id FROM uploads
       WHERE status = 'uploading' AND expires_at < now()
         AND (lease_holder IS NULL OR lease_expires_at < now())
         AND kind <> 'final'
         AND ("offset" IS DISTINCT FROM length OR (object_key IS NULL AND retry_at > now())
              OR (kind = 'partial' AND NOT EXISTS (SELECT FROM concatenations WHERE partial_id = uploads.id)))
       ORDER BY expires_at LIMIT ${EXPIRE_BATCH} FOR NO KEY UPDATE SKIP LOCKED
     ), expired AS (
       UPDATE uploads SET status = 'expired', lease_epoch = lease_epoch + 1, failures = 0, retry_at = NULL
       FROM overdue WHERE uploads.id = overdue.id
       RETURNING uploads.*
     )
     SELECT * FROM expired`,
    [],
  );
  await giveBack(manager, expired, (upload) => ({ type: 'upload.expired', ...upload }));
  return expired.length;
}

async function expireFinals(manager: EntityManager): Promise<number> {
  const expired = await queryEntities(
    manager,
    Upload,
    `WITH hopeless AS (
       SELECT id FROM uploads
       WHERE id IN (SELECT final_id FROM concatenations JOIN uploads AS part ON part.id = partial_id
                    WHERE part.status IN ('expired', 'terminated'))
         AND status = 'uploading' AND (lease_holder IS NULL OR lease_expires_at < now())
       LIMIT ${EXPIRE_BATCH} FOR NO KEY UPDATE SKIP LOCKED
     ), expired AS (
       UPDATE uploads SET status = 'expired', lease_epoch = lease_epoch + 1, failures = 0, retry_at = NULL
       FROM hopeless WHERE uploads.id = hopeless.id
       RETURNING uploads.*
     )
     SELECT * FROM expired`,
    [],
  );
  const data = { reason: 'one of its partial uploads has ended' };
  await giveBack(manager, expired, (upload) => ({ type: 'upload.expired', ...upload, data }));
  return expired.length;
}
