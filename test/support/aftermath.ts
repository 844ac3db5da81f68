import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { expectBooksRight } from './books.js';
import type { FileJson, TestUser } from './client.js';
import { listKeys, pathOf } from './folder.js';
import { listBlobs, listGrowing } from './objects.js';
import type { Processes } from './processes.js';

/*
 * Conditions that must hold after any crash, once everything has settled.
 */

const STEPS = [
  'verify',
  'sniff',
  'scan',
  'metadata',
  'thumbnails',
  'document',
  'optimize',
  'media',
  'preview',
];

/** The events of a file; one with the bytes of an older file has another, as soon as these were read. */
function eventsOnce({ duplicateOf }: FileJson): string[] {
  const steps = STEPS.flatMap((step) =>
    step === 'scan' && duplicateOf ? [step, 'file.deduplicated'] : step,
  );
  return ['upload.created', 'file.created', 'file.processing', ...steps, 'file.completed'];
}

const sha256 = (content: Uint8Array) => createHash('sha256').update(content).digest('hex');

/**
 * The types of the events of an upload or file, in order. The event of a step is given by the step's name.
 */
export async function timeline({ database }: Processes, id: string): Promise<string[]> {
  const { rows } = await database.query(
    `SELECT type, data FROM all_events WHERE subject_id = $1 AND result = 'ok' ORDER BY id`,
    [id],
  );
  return rows.map(({ type, data }) => (type === 'file.step' ? data.step : type));
}

/** The row of an upload, with its sizes as numbers. */
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
  seconds?: number,
): Promise<FileJson> {
  const file = await user.settled(id, seconds);
  expect({ id, status: file.status, error: file.error }).toEqual({ id, status: 'completed', error: null });
  expect(file.sha256).toBe(sha256(content));
  expect(await timeline(processes, id)).toEqual(eventsOnce(file));
  const head = await user.fetch(`/uploads/${id}`, { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } });
  expect(head.headers.get('Upload-Offset')).toBe(String(content.byteLength));
  const { rows } = await processes.database.query(
    'SELECT name FROM derivatives WHERE file_id = $1 ORDER BY name',
    [id],
  );
  const image = file.detectedType?.startsWith('image/');
  const thumbnails = ['thumbnail-large', 'thumbnail-medium', 'thumbnail-small'];
  // Some documents are drawn too: all sizes of them, or none.
  expect(image ? [thumbnails] : [[], thumbnails]).toContainEqual(rows.map(({ name }) => name));
  return file;
}

/** The store of the bytes. A TestBucket is one. */
interface Store {
  listObjects(): Promise<{ key: string; size: number }[]>;
  listMultipartUploads(): Promise<{ key: string }[]>;
}

/** The reconciler runs its passes every 30 s, and may need a second pass for some objects. */
const TIDY_SECONDS = 75;

/**
 * Compares the blobs' rows with the rows that refer to them and with the store: each reference is counted,
 * each blob with a reference is whole, and every stored object belongs to a blob or to an upload under way.
 * @param store if it is not the folder. Requests do not wait for deletions in it, so this function does.
 */
export async function expectBlobsInOrder(processes: Processes, store?: Store): Promise<void> {
  await expectBooksRight(processes.database);
  if (!store) return expectOrder(processes, folderStore(processes.dataDir));
  const deadline = Date.now() + TIDY_SECONDS * 1000;
  for (;;) {
    try {
      return await expectOrder(processes, store);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await pause(200);
    }
  }
}

async function expectOrder(processes: Processes, store: Store): Promise<void> {
  // List the store first: an object is in the database before it is stored.
  const objects = await store.listObjects();
  const multiparts = await store.listMultipartUploads();
  const blobs = await listBlobs(processes);
  expect(blobs.filter(({ refs, used }) => refs !== used)).toEqual([]);
  const used = blobs.filter((blob) => blob.used > 0).flatMap((blob) => blob.objects);
  const stored = new Map(objects.map((object) => [object.key, object.size]));
  expect(used.filter(({ key, size }) => stored.get(key) !== size)).toEqual([]);

  const uploads = await listGrowing(processes);
  const growing = ({ key }: { key: string }) => uploads.some((upload) => key.startsWith(upload));
  const known = new Set(blobs.flatMap((blob) => blob.objects.map(({ key }) => key)));
  const stray = objects.filter((object) => !known.has(object.key) && !growing(object));
  expect({ stray, multiparts: multiparts.filter((upload) => !growing(upload)) }).toEqual({
    stray: [],
    multiparts: [],
  });
}

function folderStore(dataDir: string): Store {
  return {
    async listObjects() {
      const keys = await listKeys(dataDir);
      const objects = keys.map(async (key) => {
        // The object may have been deleted since the folder was listed.
        const found = await stat(pathOf(dataDir, key)).catch(() => undefined);
        return found ? [{ key, size: found.size }] : [];
      });
      return (await Promise.all(objects)).flat();
    },
    listMultipartUploads: async () => [],
  };
}
