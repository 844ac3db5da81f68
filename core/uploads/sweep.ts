import type { DataSource } from 'typeorm';
import { forEachOf } from '../concurrency.js';
import { queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { findNewestBlob, selectKeysOfBlobs } from '../files/blobs.js';
import { isOurKey, requireClaimed } from '../files/claim.js';
import type { Storage, StoredObject } from '../storage/storage.js';

/*
 * Finds orphans: stored objects that no row refers to. Normally there are none: a row is written before its bytes and
 * deleted after them, and the reconciler deletes the objects that rows mark for deletion. Orphans arise when a store
 * carries out a write that it failed to answer, or when the database was restored from a backup.
 *
 * Each object is looked up after it was listed. Its row is always written before the object, and no key is ever used
 * twice, so an object without a row can never get one. A sweep is therefore safe while uploads are going on.
 */

/** Objects that are looked up at a time. */
const BATCH = 1000;

/** Deletions on their way at a time. */
const MAX_DELETIONS = 16;

interface SweepDeps {
  database: DataSource;
  storage: Storage;
}

/** The counts of a sweep so far. */
export interface SweepCount {
  listed: number;
  /** Orphans, and their bytes. */
  found: number;
  bytes: number;
  /** Objects whose keys are not Landfall's. */
  foreign: number;
}

export interface SweepOptions {
  /** Only objects that were last changed before this time. */
  before: Date;
  /** Whether to delete the orphans. */
  remove: boolean;
  /** Called with each orphan; when `remove` is set, after the orphan was deleted. */
  onOrphan(orphan: StoredObject): void;
  /** Called from time to time. */
  onProgress(count: Readonly<SweepCount>): void;
}

/**
 * Lists all stored objects, and reports or deletes those that neither a blob nor an unfinished upload names.
 * @throws {AppError} wrong_state when it is to delete, but database and storage do not seem to belong together;
 * {ConfigError} when the storage is not marked as this installation's; what the storage throws
 */
export async function sweep(deps: SweepDeps, options: SweepOptions): Promise<SweepCount> {
  if (options.remove) {
    await requireClaimed(deps);
    await requireMatch(deps);
  }
  const count: SweepCount = { listed: 0, found: 0, bytes: 0, foreign: 0 };
  let candidates: StoredObject[] = [];

  const lookUp = async () => {
    const orphans = await selectOrphans(deps.database, candidates);
    candidates = [];
    await forEachOf(orphans, MAX_DELETIONS, async (orphan) => {
      if (options.remove) await deps.storage.remove(orphan);
      count.found++;
      count.bytes += orphan.size;
      options.onOrphan(orphan);
    });
    options.onProgress(count);
  };

  for await (const object of deps.storage.list()) {
    count.listed++;
    if (!isOurKey(object.key)) count.foreign++;
    else if (object.modified < options.before) candidates.push(object);
    if (candidates.length >= BATCH) await lookUp();
    else if (count.listed % BATCH === 0) options.onProgress(count);
  }
  await lookUp();
  return count;
}

/**
 * Selects the orphans: objects that no blob names, and that belong to no upload that may still need them or that the
 * reconciler still has to clean up. A multipart upload under the key of a blob is not that blob.
 */
async function selectOrphans(database: DataSource, candidates: StoredObject[]): Promise<StoredObject[]> {
  const rows = await queryRows<{ index: number }>(
    database,
    `SELECT (place - 1)::integer AS index
     FROM unnest($1::text[], $2::boolean[]) WITH ORDINALITY AS candidate (key, multipart, place)
     WHERE (multipart OR key NOT IN (${selectKeysOfBlobs('$1::text[]')}))
       AND NOT EXISTS (SELECT FROM uploads
                       WHERE storage_key = split_part(candidate.key, '.', 1)
                         AND (status = 'uploading' OR (status <> 'finished' AND discarded_at IS NULL)))`,
    [candidates.map(({ key }) => key), candidates.map(({ multipartId }) => multipartId !== undefined)],
  );
  return rows.flatMap(({ index }) => candidates[index] ?? []);
}

/** With a wrong DATABASE_URL every object would look like an orphan. */
async function requireMatch(deps: SweepDeps): Promise<void> {
  const newest = await findNewestBlob(deps);
  if (newest === 'stored') return;
  throw new AppError('wrong_state', {
    detail: newest
      ? 'The storage does not give what the database names: do they belong together? Nothing was deleted'
      : 'The database names no object at all: is DATABASE_URL the right one? Nothing was deleted',
  });
}
