import type { TestDatabase } from './database.js';
import { pathOf } from './folder.js';
import type { Processes } from './processes.js';

/*
 * Questions to the database about blobs and stored objects. Suites ask them here, so that a column can change in one
 * place.
 */

type HasDatabase = Pick<Processes, 'database'>;
type HasFolder = Pick<Processes, 'database' | 'dataDir'>;

async function askUpload(database: TestDatabase, column: string, uploadId: string): Promise<string> {
  const { rows } = await database.query(`SELECT ${column} AS answer FROM uploads WHERE id = $1`, [uploadId]);
  if (!rows[0]?.answer) throw new Error(`upload ${uploadId} has no ${column}`);
  return rows[0].answer;
}

/** The key with which the keys of all objects of an upload begin. */
export function storageKeyOf({ database }: HasDatabase, uploadId: string): Promise<string> {
  return askUpload(database, 'storage_key', uploadId);
}

/** The key of the object that an upload was assembled to. */
export function objectKeyOf({ database }: HasDatabase, uploadId: string): Promise<string> {
  return askUpload(database, 'object_key', uploadId);
}

/** The key of the object that holds a file's bytes. */
export async function fileKeyOf({ database }: HasDatabase, fileId: string): Promise<string> {
  const { rows } = await database.query(
    'SELECT key FROM blobs JOIN files ON files.blob_id = blobs.id WHERE files.id = $1',
    [fileId],
  );
  if (rows.length !== 1) throw new Error(`file ${fileId} has ${rows.length} objects`);
  return rows[0].key;
}

/** Where the bytes of an upload are, in the data folder. They need not be there yet. */
export async function uploadPathOf(processes: HasFolder, uploadId: string): Promise<string> {
  return pathOf(processes.dataDir, await storageKeyOf(processes, uploadId));
}

/** Where the bytes of a file are, in the data folder. */
export async function filePathOf(processes: HasFolder, fileId: string): Promise<string> {
  return pathOf(processes.dataDir, await fileKeyOf(processes, fileId));
}

/** The keys of the uploads that are under way: see storageKeyOf(). */
export async function listGrowing({ database }: HasDatabase): Promise<string[]> {
  const { rows } = await database.query(`SELECT storage_key FROM uploads WHERE status = 'uploading'`);
  return rows.map((row) => row.storage_key);
}

/** A row of blobs. `refs` are its references as it counts them, `used` as they are. */
export interface BlobRow {
  objects: { key: string; size: number }[];
  refs: number;
  used: number;
}

/** All blobs. */
export async function listBlobs({ database }: HasDatabase): Promise<BlobRow[]> {
  const { rows } = await database.query(
    `SELECT coalesce(objects, jsonb_build_array(jsonb_build_object('key', key, 'size', size))) AS objects, refs,
       (SELECT count(*)::integer FROM files WHERE blob_id = blobs.id) +
       (SELECT count(*)::integer FROM derivatives WHERE blob_id = blobs.id) +
       (SELECT count(*)::integer FROM variants WHERE blob_id = blobs.id) +
       (SELECT count(*)::integer FROM uploads WHERE blob_id = blobs.id) AS used
     FROM blobs`,
  );
  return rows;
}

/** How many blobs have no reference. */
export async function countUnreferenced({ database }: HasDatabase): Promise<number> {
  const { rows } = await database.query('SELECT count(*)::integer AS count FROM blobs WHERE refs = 0');
  return rows[0].count;
}

/** Makes blobs without a reference old enough to be swept. */
export async function ageUnreferenced({ database }: HasDatabase): Promise<void> {
  await database.query(`UPDATE blobs SET created_at = now() - interval '61 minutes' WHERE refs = 0`);
}
