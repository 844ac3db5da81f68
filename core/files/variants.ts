import type { DataSource, EntityManager } from 'typeorm';
import { countChanged, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { Storage } from '../storage/storage.js';
import { referenceBlobs, releaseBlobs, type StoredBlob, storeBlobs, storedBlob } from './blobs.js';

/*
 * Variants: images that were rendered on request and are kept for the next one. They can be rendered again at any time, so the
 * least recently used ones are dropped. A file's variants are not listed with it, and go away with it.
 */

/** A variant of a file. */
export interface Variant<Body = StoredBlob | Uint8Array> {
  /** Stored, or just rendered. */
  body: Body;
  contentType: string;
  /** Depends on the bytes alone: the same image has it again when it is rendered again. */
  etag: string;
  createdAt: Date;
}

interface VariantDeps {
  database: DataSource;
  storage: Storage;
}

/** Variants that are kept of a file. */
const MOST_KEPT = 40;

/** Variants that nobody has asked for in this time are dropped. */
const KEPT_DAYS = 30;

/** Uses are noted to within a day, so that most requests write nothing. */
const NOTED = `interval '1 day'`;

/** Variants that are dropped in one transaction. */
const BATCH = 500;

/** A variant that is kept, and notes its use. @param key as keyOf() of core/media/rendering.ts */
export async function findVariant(
  database: DataSource,
  fileId: string,
  key: string,
): Promise<Variant<StoredBlob> | undefined> {
  const [variant] = await queryRows<Variant<StoredBlob>>(
    database,
    `WITH noted AS (
       UPDATE variants SET used_at = now() WHERE file_id = $1 AND key = $2 AND used_at < now() - ${NOTED}
     )
     SELECT ${storedBlob('b')} AS body, v.content_type AS "contentType", v.etag, v.created_at AS "createdAt"
     FROM variants AS v JOIN blobs AS b ON b.id = v.blob_id WHERE v.file_id = $1 AND v.key = $2`,
    [fileId, key],
  );
  return variant;
}

/**
 * Stores a variant and keeps it. If another server has been faster, its variant stays, and the reconciler deletes these bytes.
 * @throws {AppError} not_found when the file is gone; storage_full
 */
export async function keepVariant(
  { database, storage }: VariantDeps,
  fileId: string,
  key: string,
  { body, contentType, etag, createdAt }: Variant<Uint8Array>,
): Promise<void> {
  await storage.room?.requireForDerived();
  const blobs = await storeBlobs({ database, storage }, [body]);
  const [blobId] = blobs.map(({ id }) => id);
  await database.transaction(async (manager) => {
    // The lock holds off a purge, and makes those who keep variants of this file wait for each other.
    const found = await countChanged(manager, 'SELECT FROM files WHERE id = $1 FOR NO KEY UPDATE', [fileId]);
    if (found === 0) throw new AppError('not_found');
    const inserted = await countChanged(
      manager,
      `INSERT INTO variants (file_id, key, blob_id, content_type, etag, created_at) VALUES ($1, $2, $3, $4, $5, $6)
       ON CONFLICT DO NOTHING`,
      [fileId, key, blobId, contentType, etag, createdAt],
    );
    if (inserted === 0) return;
    await referenceBlobs(
      manager,
      blobs.map(({ id }) => id),
    );
    await dropOldest(manager, fileId);
  });
}

/** Drops the variants of a file beyond the number that is kept. */
async function dropOldest(manager: EntityManager, fileId: string): Promise<void> {
  await release(
    manager,
    `DELETE FROM variants WHERE file_id = $1 AND key IN (
       SELECT key FROM variants WHERE file_id = $1 ORDER BY used_at DESC, created_at DESC, key OFFSET ${MOST_KEPT}
     ) RETURNING blob_id AS "blobId"`,
    [fileId],
  );
}

/** Drops all variants of a file, in the caller's transaction, which has locked the file. @returns as releaseBlobs() wants it */
export function dropVariants(manager: EntityManager, fileId: string): Promise<string[]> {
  return release(manager, 'DELETE FROM variants WHERE file_id = $1 RETURNING blob_id AS "blobId"', [fileId]);
}

/** Drops the variants that nobody asks for any more. @returns how many */
export async function dropOldVariants(database: DataSource): Promise<number> {
  let dropped = 0;
  for (;;) {
    const batch = await database.transaction((manager) =>
      release(
        manager,
        `DELETE FROM variants WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM variants WHERE used_at < now() - $1 * interval '1 day'
           ORDER BY used_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED
         )) RETURNING blob_id AS "blobId"`,
        [KEPT_DAYS],
      ),
    );
    dropped += batch.length;
    if (batch.length < BATCH) return dropped;
  }
}

/** Deletes variants and releases their blobs. @returns the ids of the blobs */
async function release(manager: EntityManager, deletion: string, parameters: unknown[]): Promise<string[]> {
  const rows = await queryRows<{ blobId: string }>(manager, deletion, parameters);
  const ids = rows.map(({ blobId }) => blobId);
  if (ids.length > 0) await releaseBlobs(manager, ids);
  return ids;
}
