import { randomUUID } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Blob } from './database/entities/blob.js';
import { queryEntities } from './database/rows.js';
import type { Storage } from './storage/storage.js';

/*
 * Stored objects and who refers to them. A blob's row comes first, without a reference; then its bytes; then the
 * reference, in the transaction that makes it known. What a crash leaves is therefore always a row without a
 * reference, and the sweep deletes those.
 */

interface BlobDeps {
  database: DataSource;
  storage: Storage;
}

/** How long a row may stay without a reference because its bytes are just being written. */
const UNREFERENCED_MINUTES = 60;

/** Writes the rows of blobs that are about to be stored. @param sizes bytes of each */
export async function reserveBlobs(database: DataSource, sizes: number[]): Promise<Blob[]> {
  const blobs = sizes.map((size) => ({ id: uuidv7(), key: randomUUID(), size, refs: 0 }));
  await database.getRepository(Blob).insert(blobs);
  return blobs as Blob[];
}

/** Adds a reference to each. Part of the caller's transaction. */
export async function referenceBlobs(manager: EntityManager, ids: string[]): Promise<void> {
  await manager.query('UPDATE blobs SET refs = refs + 1 WHERE id = ANY ($1)', [ids]);
}

/** Takes one reference from each. Part of the caller's transaction; call deleteUnreferencedBlobs after it. */
export async function releaseBlobs(manager: EntityManager, ids: string[]): Promise<void> {
  await manager.query('UPDATE blobs SET refs = refs - 1 WHERE id = ANY ($1)', [ids]);
}

/**
 * Deletes objects that nothing refers to, and their rows.
 * @param ids only these; undefined: all that have been without a reference for an hour, at most 1000
 * @returns how many were deleted
 * @throws what the storage threw first, after all others were deleted: the rows of those that failed stay
 */
export async function deleteUnreferencedBlobs(deps: BlobDeps, ids?: string[]): Promise<number> {
  const candidates: { id: string }[] = await deps.database.query(
    `SELECT id FROM blobs
     WHERE refs = 0 AND CASE WHEN $1::uuid[] IS NULL THEN created_at < now() - $2 * interval '1 minute'
                             ELSE id = ANY ($1) END
     LIMIT 1000`,
    [ids ?? null, UNREFERENCED_MINUTES],
  );
  let deleted = 0;
  let failure: unknown;
  for (const { id } of candidates) {
    try {
      if (await deleteUnreferencedBlob(deps, id)) deleted++;
    } catch (error) {
      failure ??= error;
    }
  }
  if (failure) throw failure;
  return deleted;
}

async function deleteUnreferencedBlob({ database, storage }: BlobDeps, id: string): Promise<boolean> {
  return database.transaction(async (manager) => {
    // The lock keeps a new reference out while the object goes.
    const [blob] = await queryEntities(
      manager,
      Blob,
      'SELECT * FROM blobs WHERE id = $1 AND refs = 0 FOR UPDATE SKIP LOCKED',
      [id],
    );
    if (!blob) return false;
    await storage.blobs.delete(blob.key);
    await manager.getRepository(Blob).delete({ id });
    return true;
  });
}
