import type { EntityManager } from 'typeorm';
import { Blob } from '../database/entities/blob.js';
import type { File } from '../database/entities/file.js';
import { type Database, execute, queryEntities, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import { moveReference, type StoredBlob } from './blobs.js';

/*
 * The same bytes of one owner are stored once. A file that has just been measured, and has the bytes of an older file,
 * refers to the blob of that file from then on. Its own blob loses its only reference, and the reconciler deletes it.
 *
 * This happens in the transaction that records the SHA-256. It first takes a lock that stands for these bytes of this
 * owner. So files with the same bytes are recorded one after the other, and each sees those before it: all of them get the
 * same blob, and nothing is left to do when a process dies. A purge does not take that lock. If it deletes the blob first,
 * its mark is found (moveReference); if it comes later, the blob has another reference and stays.
 *
 * A file changes its blob only before it can be read for the first time. So no reader and no signed address of the store
 * loses its object, and the order of locks (core/uploads/quota.ts) is kept: the file, the bytes, blobs, the owner.
 *
 * Files of two owners never share bytes: the time or the room that an upload takes must not tell what others have.
 */

/** The file is yet to be recorded: `blobId` is its own blob. */
type MeasuredFile = Pick<File, 'id' | 'ownerId' | 'size' | 'blobId'>;

/** Whether the bytes of blobs were found to be right, by id. */
export type ReadBlobs = ReadonlyMap<string, boolean>;

/** Another file has the same bytes, by its row. They must be read before this file can give up its own. */
export class UnreadTwin extends Error {
  override name = 'UnreadTwin';
  constructor(readonly blob: StoredBlob) {
    super(`blob ${blob.id} has not been read`);
  }
}

/**
 * Lets a file share the blob of the oldest file with the same bytes, with an event. Part of the transaction that records
 * the SHA-256 of the file, which cannot be read yet; the transaction has locked the file's row.
 * @param sha256 hex; measured
 * @param read blobs that have been read for this file; those with wrong bytes are not shared
 * @returns the blob that the file refers to now; undefined if it keeps its own
 * @throws {UnreadTwin} after which the caller reads that blob, and repeats the whole transaction
 */
export async function shareBytes(
  manager: EntityManager,
  file: MeasuredFile,
  sha256: string,
  read: ReadBlobs,
): Promise<StoredBlob | undefined> {
  await execute(manager, 'SELECT pg_advisory_xact_lock(hashtextextended($1, 0))', [
    `${file.ownerId} ${sha256}`,
  ]);
  const useless = [...read].filter(([, isRight]) => !isRight).map(([id]) => id);
  for (;;) {
    const twin = await findTwin(manager, file, sha256, useless);
    if (!twin || twin.blobId === file.blobId) return undefined;
    if (!read.has(twin.blobId)) throw new UnreadTwin(await getBlob(manager, twin.blobId));
    if (await moveReference(manager, file.blobId, twin.blobId)) return follow(manager, file, twin);
    // A purge has just deleted it.
    useless.push(twin.blobId);
  }
}

/** Writes to the file's row that it has the blob of its twin. */
async function follow(manager: EntityManager, { id, ownerId }: MeasuredFile, twin: Twin): Promise<Blob> {
  await execute(manager, 'UPDATE files SET blob_id = $2, duplicate_of = $3 WHERE id = $1', [
    id,
    twin.blobId,
    twin.id,
  ]);
  const data = { duplicateOf: twin.id };
  await appendEvents(manager, [{ type: 'file.deduplicated', subjectId: id, ownerId, data }]);
  return getBlob(manager, twin.blobId);
}

type Twin = Pick<File, 'id' | 'blobId'>;

/**
 * Finds the oldest other file of the same owner with these bytes, in the trash too. Bytes in quarantine are not shared.
 * @param sha256 hex
 * @param except ids of blobs
 */
export async function findTwin(
  database: Database,
  file: Pick<File, 'id' | 'ownerId' | 'size'>,
  sha256: string,
  except: string[] = [],
): Promise<Twin | undefined> {
  const { sql, parameters } = selectTwin(file, sha256, except);
  const [twin] = await queryRows<Twin>(database, sql, parameters);
  return twin;
}

const LEAST_ID = '00000000-0000-0000-0000-000000000000';
const GREATEST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

/**
 * The statement of findTwin(). Bounds for the whole key of files_sha256_idx, and its order, leave PostgreSQL no other index.
 * With equal signs and the order of ids alone, it would read all files by their ids if many have these bytes, because it
 * would expect one of them soon.
 */
export function selectTwin(
  { id, ownerId, size }: Pick<File, 'id' | 'ownerId' | 'size'>,
  sha256: string,
  except: string[] = [],
): { sql: string; parameters: unknown[] } {
  const sql = `SELECT id, blob_id AS "blobId" FROM files
     WHERE sha256 IS NOT NULL
       AND (owner_id, sha256, id) >= ($1::uuid, $2::text, '${LEAST_ID}'::uuid)
       AND (owner_id, sha256, id) <= ($1::uuid, $2::text, '${GREATEST_ID}'::uuid)
       AND size = $3 AND id <> $4 AND blob_id <> ALL ($5) AND status <> 'infected' AND NOT in_quarantine
     ORDER BY owner_id, sha256, id LIMIT 1`;
  return { sql, parameters: [ownerId, sha256, size, id, except] };
}

async function getBlob(manager: EntityManager, id: string): Promise<Blob> {
  const [blob] = await queryEntities(manager, Blob, 'SELECT * FROM blobs WHERE id = $1', [id]);
  if (!blob) throw new Error(`there is no blob ${id}`);
  return blob;
}
