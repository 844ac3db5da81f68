import { randomUUID } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Blob } from '../database/entities/blob.js';
import { countChanged, queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { IS_DUE, workThrough } from '../retries.js';
import type { Storage } from '../storage/storage.js';

/*
 * Stored objects and their reference counts. A blob's row is written first, without a reference; then its bytes; then
 * the reference, in the transaction that makes the blob visible. So a crash always leaves a row without a reference,
 * and the reconciler deletes such blobs.
 *
 * A deletion begins with a mark (`doomed_at`) that is committed before the object is deleted from the store. A marked
 * blob never gets a reference again, so no transaction has to stay open while the store deletes the object. The row is
 * deleted last: if the process dies before that, the next pass finds the mark.
 */

interface BlobDeps {
  database: DataSource;
  storage: Storage;
}

/** How long a row may have no reference while its bytes are being written. */
const UNREFERENCED_MINUTES = 60;

/** Writes the rows of blobs that are about to be stored. @param sizes bytes of each */
export async function reserveBlobs(database: DataSource, sizes: number[]): Promise<Blob[]> {
  const blobs = sizes.map((size) => ({ id: uuidv7(), key: randomUUID(), size, refs: 0 }));
  await database.getRepository(Blob).insert(blobs);
  return blobs as Blob[];
}

/**
 * Adds a reference to each blob. Part of the caller's transaction.
 * @throws {AppError} unavailable when a blob is marked for deletion: its bytes have to be stored again, as another blob
 */
export async function referenceBlobs(manager: EntityManager, ids: string[]): Promise<void> {
  const changed = await countChanged(
    manager,
    'UPDATE blobs SET refs = refs + 1 WHERE id = ANY ($1) AND doomed_at IS NULL',
    [ids],
  );
  if (changed === ids.length) return;
  throw new AppError('unavailable', { detail: 'What was stored has been given up', retryable: true });
}

/**
 * Removes a reference from each blob. Part of the caller's transaction. Call deleteUnreferencedBlobs after the commit to
 * delete the blobs that lost their last reference.
 */
export async function releaseBlobs(manager: EntityManager, ids: string[]): Promise<void> {
  await manager.query(
    `UPDATE blobs SET refs = refs - 1, doomed_at = CASE WHEN refs = 1 THEN now() END WHERE id = ANY ($1)`,
    [ids],
  );
}

/**
 * Deletes blobs without a reference, objects and rows: blobs that lost their last reference, and blobs that had none for
 * an hour.
 * @param ids only these blobs, whatever their age; undefined: all
 * @returns how many blobs were deleted
 * @throws {PassIncomplete} when deletions failed, after all others were deleted; the failed blobs keep their rows
 */
export async function deleteUnreferencedBlobs(deps: BlobDeps, ids?: string[]): Promise<number> {
  const { database, storage } = deps;
  return workThrough(
    database,
    'blobs',
    (limit) => doomBlobs(database, limit, ids),
    async ({ id, key }) => {
      await storage.blobs.delete(key);
      await database.getRepository(Blob).delete({ id });
    },
  );
}

/** Marks the blobs to delete next. Includes blobs that an earlier call marked but did not delete. */
async function doomBlobs(database: DataSource, limit: number, ids?: string[]): Promise<Blob[]> {
  const isMeant = ids
    ? 'id = ANY ($2)'
    : `(doomed_at IS NOT NULL OR created_at < now() - $2 * interval '1 minute')`;
  return queryEntities(
    database.manager,
    Blob,
    `WITH due AS (
       SELECT id FROM blobs WHERE refs = 0 AND ${IS_DUE} AND ${isMeant}
       ORDER BY created_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
     ), doomed AS (
       UPDATE blobs SET doomed_at = coalesce(doomed_at, now()) FROM due WHERE blobs.id = due.id RETURNING blobs.*
     )
     SELECT * FROM doomed`,
    [limit, ids ?? UNREFERENCED_MINUTES],
  );
}
