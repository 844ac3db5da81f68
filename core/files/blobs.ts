import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Blob, type BlobObject } from '../database/entities/blob.js';
import { countChanged, execute, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { IS_DUE, workThrough } from '../retries.js';
import { type ByteRange, readObjects } from '../storage/object-reader.js';
import { type BlobStore, QUARANTINE, type Storage } from '../storage/storage.js';

/*
 * Blobs: immutable sequences of bytes, their reference counts, and the stored objects that hold them. No other file
 * knows which objects a blob has.
 *
 * A blob's row is written first, without a reference; then its bytes; then the reference, in the transaction that makes
 * the blob visible. So a crash always leaves a row without a reference, and the reconciler deletes such blobs.
 *
 * A deletion begins with a mark (`doomed_at`) that is committed before the objects are deleted from the store. A marked
 * blob never gets a reference again, so no transaction has to stay open while the store deletes the objects. The row is
 * deleted last: if the process dies before that, the next pass finds the mark.
 *
 * Several blobs may have an object in common. It is deleted with the last of them: the deletion of a blob keeps the
 * objects that a blob without a mark has too, and looks for such blobs after its own mark is committed. So of two blobs
 * that are deleted at the same time, at least one finds the other marked. A statement that makes a blob of the objects
 * of another one must lock the row of that blob and find it without a mark.
 */

interface BlobDeps {
  database: DataSource;
  storage: Pick<Storage, 'blobs'>;
}

/** The columns that are needed to read a blob. */
export type StoredBlob = Pick<Blob, 'id' | 'size' | 'key' | 'objects'>;

/** How long a row may have no reference while its bytes are being written. */
const UNREFERENCED_MINUTES = 60;

/** The objects that hold a blob's bytes, in their order. */
function objectsOf({ id, size, key, objects }: StoredBlob): BlobObject[] {
  const all = objects ?? (key === null ? [] : [{ key, size }]);
  const stored = all.reduce((sum, object) => sum + object.size, 0);
  if (all.length === 0 || stored !== size) {
    throw new Error(`the ${all.length} objects of blob ${id} have ${stored} bytes instead of ${size}`);
  }
  return all;
}

/** The keys of a blob's objects, whatever their sizes: a blob whose row is wrong can be deleted too. */
function keysOf({ key, objects }: StoredBlob): string[] {
  return objects?.map((object) => object.key) ?? (key === null ? [] : [key]);
}

/** SQL expression: a StoredBlob as one value of JSON. @param blobs name of the table `blobs` in the statement */
export function storedBlob(blobs: string): string {
  return `jsonb_build_object('id', ${blobs}.id, 'size', ${blobs}.size, 'key', ${blobs}.key, 'objects', ${blobs}.objects)`;
}

/**
 * SELECT of the keys, out of an array, that are keys of objects of blobs. The array is looked up as a whole: for a
 * condition on a single key, PostgreSQL prefers to read all blobs.
 * @param keys parameter of the statement: text[]
 * @param which a further condition on the blobs
 */
export function selectKeysOfBlobs(keys: string, which = 'true'): string {
  return `SELECT key FROM blobs WHERE key = ANY (${keys}) AND ${which}
          UNION ALL
          SELECT object ->> 'key' FROM blobs, jsonb_array_elements(objects) AS object
          WHERE objects IS NOT NULL AND ${which} AND object ->> 'key' = ANY (${keys})
            AND jsonb_path_query_array(objects, '$[*].key') ?| ${keys}`;
}

/**
 * INSERT of a blob that has one reference and the object of an upload, as part of a statement in which `upload` is that
 * upload's row. @param id expression: of the new blob
 */
export function insertBlobOfUpload(id: string): string {
  return `INSERT INTO blobs (id, key, size, refs) SELECT ${id}, object_key, "offset", 1 FROM upload`;
}

/**
 * Makes a blob of the bytes of other blobs, in their order, and gives it one reference. It has their objects in common
 * with them, so no byte is copied, and each of them may be deleted at any time. Part of the caller's transaction.
 * @param id of the new blob
 * @param parts ids; the same blob may come several times
 * @returns bytes of the new blob
 * @throws {AppError} unavailable when one of the blobs is marked for deletion
 */
export async function joinBlobs(manager: EntityManager, id: string, parts: string[]): Promise<number> {
  // The locks keep a deletion from looking for other blobs with its objects before this blob is there.
  const blobs = await queryEntities(
    manager,
    Blob,
    'SELECT * FROM blobs WHERE id = ANY ($1) AND doomed_at IS NULL ORDER BY id FOR SHARE',
    [parts],
  );
  const byId = new Map(blobs.map((blob) => [blob.id, blob]));
  const objects = parts.flatMap((part) => {
    const blob = byId.get(part);
    if (blob) return objectsOf(blob);
    throw doomed();
  });
  const size = objects.reduce((sum, object) => sum + object.size, 0);
  const filled = size > 0 ? objects.filter((object) => object.size > 0) : objects.slice(0, 1);
  await manager.getRepository(Blob).insert({ id, key: null, objects: filled, size, refs: 1 });
  return size;
}

/**
 * Opens a blob, or a range of it. Broken reads are resumed, nothing is read ahead of the consumer, and destroying the
 * stream ends the read.
 * @returns a stream of exactly these bytes; it fails with an {AppError}: unavailable, or size_mismatch when the store has
 * other bytes than the row says
 * @throws {AppError} unavailable when the blob cannot be opened at all
 */
export async function openBlob(
  store: Pick<BlobStore, 'read'>,
  blob: StoredBlob,
  range?: ByteRange,
): Promise<Readable> {
  return readObjects(store, objectsOf(blob), range);
}

/**
 * An address at which a client can fetch a blob from the store itself, for some minutes.
 * @returns undefined where the store has no such addresses, or the blob is not one object
 */
export async function linkToBlob(
  store: Pick<BlobStore, 'link'>,
  blob: StoredBlob,
  answer: { contentType: string; contentDisposition: string },
): Promise<string | undefined> {
  const [object, ...more] = objectsOf(blob);
  return object && more.length === 0 ? store.link?.(object.key, answer) : undefined;
}

/** Whether linkToBlob() gives an address of this blob. */
export function hasLink(store: Pick<BlobStore, 'link'>, blob: StoredBlob): boolean {
  return store.link !== undefined && objectsOf(blob).length === 1;
}

/** A blob as the source of a copy to another place. */
export interface BlobSource {
  /** Bytes. */
  size: number;
  /** The stored objects that hold the bytes, in their order, for a copy within the store. */
  objects: readonly BlobObject[];
  /** As openBlob(). */
  open(range?: ByteRange): Promise<Readable>;
}

export function sourceOfBlob(store: Pick<BlobStore, 'read'>, blob: StoredBlob): BlobSource {
  const { size } = blob;
  return { size, objects: objectsOf(blob), open: (range) => openBlob(store, blob, range) };
}

/** Stores new blobs, which have no reference yet. When this returns, their bytes survive a power cut. */
export async function storeBlobs(
  { database, storage }: BlobDeps,
  contents: Uint8Array[],
): Promise<StoredBlob[]> {
  const blobs = contents.map((bytes) => ({
    bytes,
    row: { id: uuidv7(), key: randomUUID(), objects: null, size: bytes.byteLength },
  }));
  await database.getRepository(Blob).insert(blobs.map(({ row }) => row));
  await Promise.all(blobs.map(({ bytes, row }) => storage.blobs.write(row.key, bytes)));
  return blobs.map(({ row }) => row);
}

/** How often a row is touched while its bytes are copied. */
const TOUCH_MS = 10 * 60_000;

/**
 * Stores a copy of a blob, which has no reference yet, within the store. When this returns, its bytes survive a power cut.
 * @param isQuarantined whether the copy lies in quarantine
 */
export async function copyBlob(
  { database, storage }: BlobDeps,
  blob: StoredBlob,
  isQuarantined: boolean,
): Promise<StoredBlob> {
  const key = () => (isQuarantined ? `${QUARANTINE}/${randomUUID()}` : randomUUID());
  const copies = objectsOf(blob).map(({ key: from, size }) => ({ from, object: { key: key(), size } }));
  const [only, ...more] = copies.map(({ object }) => object);
  const isOne = more.length === 0 && only !== undefined;
  const row = {
    id: uuidv7(),
    key: isOne ? only.key : null,
    objects: isOne ? null : copies.map(({ object }) => object),
    size: blob.size,
  };
  await database.getRepository(Blob).insert(row);
  // Otherwise the reconciler would delete a blob whose copy takes an hour.
  const touch = setInterval(() => {
    execute(database, 'UPDATE blobs SET created_at = now() WHERE id = $1', [row.id]).catch(() => {});
  }, TOUCH_MS);
  try {
    for (const { from, object } of copies) await storage.blobs.copy(from, object.size, object.key);
  } finally {
    clearInterval(touch);
  }
  return row;
}

/**
 * Adds `count` references to each blob. Part of the caller's transaction.
 * @throws {AppError} unavailable when a blob is marked for deletion: its bytes have to be stored again, as another blob
 */
export async function referenceBlobs(manager: EntityManager, ids: string[], count = 1): Promise<void> {
  const changed = await countChanged(
    manager,
    'UPDATE blobs SET refs = refs + $2 WHERE id = ANY ($1) AND doomed_at IS NULL',
    [ids, count],
  );
  if (changed === ids.length) return;
  throw doomed();
}

/**
 * Moves a reference from one blob to another, which loses or gets it. Part of the caller's transaction. The reconciler deletes
 * `from` if that was its last reference.
 * @returns false if `to` is deleted or marked for deletion: then nothing has changed
 */
export async function moveReference(manager: EntityManager, from: string, to: string): Promise<boolean> {
  // A purge that is releasing `to` holds this lock until its mark can be seen.
  const found = await countChanged(
    manager,
    'SELECT FROM blobs WHERE id = $1 AND doomed_at IS NULL FOR NO KEY UPDATE',
    [to],
  );
  if (found === 0) return false;
  await execute(
    manager,
    `UPDATE blobs SET refs = refs + CASE id WHEN $2 THEN 1 ELSE -1 END,
       doomed_at = CASE WHEN id = $1 AND refs = 1 THEN now() END
     WHERE id IN ($1, $2)`,
    [from, to],
  );
  return true;
}

/** The error for a blob that is marked for deletion. */
function doomed(): AppError {
  return new AppError('unavailable', { detail: 'The stored bytes have been given up', retryable: true });
}

/**
 * Removes `count` references from each blob. Part of the caller's transaction. Call deleteUnreferencedBlobs after the commit to
 * delete the blobs that lost their last reference.
 */
export async function releaseBlobs(manager: EntityManager, ids: string[], count = 1): Promise<void> {
  await execute(
    manager,
    `UPDATE blobs SET refs = refs - $2, doomed_at = CASE WHEN refs = $2 THEN now() END WHERE id = ANY ($1)`,
    [ids, count],
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
    async (limit) => withOwnKeys(database, await doomBlobs(database, limit, ids)),
    async ({ id, ownKeys }) => {
      for (const key of ownKeys) await storage.blobs.delete(key);
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
    database,
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

/** Adds the keys of the objects that no other blob has, apart from marked ones. @param doomed their marks are committed */
async function withOwnKeys(
  database: DataSource,
  doomed: Blob[],
): Promise<{ id: string; ownKeys: string[] }[]> {
  if (doomed.length === 0) return [];
  const blobs = doomed.map((blob) => ({ id: blob.id, keys: keysOf(blob) }));
  const rows = await queryRows<{ key: string }>(
    database,
    selectKeysOfBlobs('$1::text[]', 'doomed_at IS NULL'),
    [blobs.flatMap(({ keys }) => keys)],
  );
  const shared = new Set(rows.map(({ key }) => key));
  return blobs.map(({ id, keys }) => ({ id, ownKeys: keys.filter((key) => !shared.has(key)) }));
}

/**
 * Looks for the bytes of the newest blob that has a reference, to see whether database and storage belong together.
 * @returns undefined if there is no such blob
 */
export async function findNewestBlob({
  database,
  storage,
}: BlobDeps): Promise<'stored' | 'missing' | undefined> {
  const [blob] = await queryEntities(
    database,
    Blob,
    'SELECT * FROM blobs WHERE refs > 0 ORDER BY id DESC LIMIT 1',
    [],
  );
  if (!blob) return undefined;
  return openBlob(storage.blobs, blob).then(
    (bytes) => {
      bytes.destroy();
      return 'stored';
    },
    () => 'missing',
  );
}
