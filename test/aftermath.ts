import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { FileJson, TestUser } from './client.js';
import type { Processes } from './processes.js';

/*
 * What must hold after any crash, once everything has settled.
 */

const STEPS = ['verify', 'sniff', 'scan', 'metadata', 'thumbnails'];

const ONCE = ['upload.created', 'file.created', 'file.processing', ...STEPS, 'file.completed'];

const sha256 = (content: Uint8Array) => createHash('sha256').update(content).digest('hex');

/** Types of the events of an upload or file, in order; a step's event stands under the step's name. */
export async function timeline({ database }: Processes, id: string): Promise<string[]> {
  const { rows } = await database.query('SELECT type, data FROM events WHERE subject_id = $1 ORDER BY id', [
    id,
  ]);
  return rows.map(({ type, data }) => (type === 'file.step' ? data.step : type));
}

/** Row of an upload, with its numbers as such. */
export async function findUpload({ database }: Processes, id: string) {
  const { rows } = await database.query(
    'SELECT *, "offset"::float8 AS "offset", length::float8 AS length FROM uploads WHERE id = $1',
    [id],
  );
  return rows[0];
}

/** Row of a file. */
export async function findFile({ database }: Processes, id: string) {
  const { rows } = await database.query('SELECT * FROM files WHERE id = $1', [id]);
  return rows[0];
}

/** Waits until the file is completed, with its bytes as they were sent and everything done exactly once. */
export async function expectCompletedOnce(
  processes: Processes,
  user: TestUser,
  id: string,
  content: Uint8Array,
  seconds = 60,
): Promise<FileJson> {
  const file = await user.settled(id, seconds);
  expect({ id, status: file.status, error: file.error }).toEqual({ id, status: 'completed', error: null });
  expect(file.sha256).toBe(sha256(content));
  expect(await timeline(processes, id)).toEqual(ONCE);
  const head = await user.fetch(`/uploads/${id}`, { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } });
  expect(head.headers.get('Upload-Offset')).toBe(String(content.byteLength));
  const { rows } = await processes.database.query(
    'SELECT name FROM derivatives WHERE file_id = $1 ORDER BY name',
    [id],
  );
  const image = file.detectedType?.startsWith('image/');
  const thumbnails = ['thumbnail-large', 'thumbnail-medium', 'thumbnail-small'];
  expect(rows.map(({ name }) => name)).toEqual(image ? thumbnails : []);
  return file;
}

/**
 * Compares the blobs' rows with who refers to them and with the folder: each reference is counted, each blob that
 * is referred to is whole, and no object is without a row.
 */
export async function expectBlobsInOrder({ database, dataDir }: Processes): Promise<void> {
  const { rows } = await database.query(
    `SELECT key, size::float8 AS size, refs,
       (SELECT count(*)::integer FROM files WHERE blob_id = blobs.id) +
       (SELECT count(*)::integer FROM derivatives WHERE blob_id = blobs.id) AS used
     FROM blobs`,
  );
  expect(rows.filter(({ refs, used }) => refs !== used)).toEqual([]);
  for (const { key, size, used } of rows) {
    if (used > 0) expect((await stat(pathOf(dataDir, key))).size).toBe(size);
  }
  const uploads = await database.query(`SELECT storage_key FROM uploads WHERE status = 'uploading'`);
  const known = new Set([...rows.map(({ key }) => key), ...uploads.rows.map((row) => row.storage_key)]);
  expect((await listKeys(dataDir)).filter((key) => !known.has(key))).toEqual([]);
}

/** Keys of the objects that are stored. */
export async function listKeys(dataDir: string): Promise<string[]> {
  const entries = await readdir(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
}

/** Where an object is stored. */
export function pathOf(dataDir: string, key: string): string {
  return join(dataDir, 'blobs', key.slice(0, 2), key);
}
