import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { findUpload } from './support/aftermath.js';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { purge, terminate, trash } from './support/deletions.js';
import { listKeys, pathOf } from './support/folder.js';
import { runPasses } from './support/passes.js';
import { post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/* A file or an unfinished upload that is gone for good leaves neither its bytes nor its name. */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ QUOTA_FILES: '2' });
});
afterAll(() => processes?.close());

beforeEach(async () => {
  user = await registerUser(() => processes.url);
});

/** The tables that have a row with this text, the queue's included, and `stored` if an object contains it. */
async function findPlaces(text: string): Promise<string[]> {
  const { rows: tables } = await processes.database.query(
    `SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables
     WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')`,
  );
  const places: string[] = [];
  for (const { name } of tables) {
    const found = await processes.database.query(
      `SELECT FROM ${name} AS one WHERE one::text LIKE '%' || $1 || '%' LIMIT 1`,
      [text],
    );
    if (found.rowCount) places.push(name);
  }
  for (const key of await listKeys(processes.dataDir)) {
    const content = await readFile(pathOf(processes.dataDir, key), 'utf8').catch(() => '');
    if (content.includes(text)) places.push('stored');
  }
  return places.sort();
}

/** Begins an upload and sends some of its bytes. Returns its id. */
async function beginUpload(secret: string): Promise<string> {
  const metadata = encodeMetadata({ filename: `${secret}.txt`, filetype: 'text/plain', note: secret });
  const path = await user.create(1000, { 'Upload-Metadata': metadata });
  expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, secret)).status).toBe(204);
  return idOf(path);
}

const uploadFile = async (secret: string, metadata: Record<string, string> = {}) =>
  (await user.settled(await user.upload(Buffer.from(secret), { filename: `${secret}.txt`, ...metadata }))).id;

const UNFINISHED = ['public.uploads', 'stored'];
const FILE = ['public.files', 'public.uploads', 'stored'];

test('an upload that its client has ended leaves nothing', async () => {
  const secret = randomUUID();
  const id = await beginUpload(secret);
  expect(await findPlaces(secret)).toEqual(UNFINISHED);
  expect(await terminate(user, id)).toBe(204);
  expect(await findPlaces(secret)).toEqual([]);
});

test('a plain upload that failed leaves nothing', async () => {
  const secret = randomUUID();
  const answer = await post(user, secret, {}, `?filename=${secret}.txt&sha256=${'0'.repeat(64)}`);
  expect(answer.status).toBe(422);
  expect(await findPlaces(secret)).toEqual([]);
});

test('an upload that has expired leaves nothing', async () => {
  const secret = randomUUID();
  const id = await beginUpload(secret);
  await makeDue(processes.database, id);
  await runPasses(processes, async () => (await findUpload(processes, id)).discarded_at);
  expect(await findPlaces(secret)).toEqual([]);
  expect((await user.tus('HEAD', `/uploads/${id}`)).status).toBe(410);
});

test.each<[string, Record<string, string>]>([
  ['a file', {}],
  ['a file that has failed', { sha256: '0'.repeat(64) }],
])('%s that was deleted for good leaves nothing', async (_name, metadata) => {
  const secret = randomUUID();
  const id = await uploadFile(secret, metadata);
  expect(await findPlaces(secret)).toEqual(FILE);
  expect(await purge(user, id)).toBe(204);
  expect(await findPlaces(secret)).toEqual([]);
});

test('a file that has fallen out of the trash leaves nothing', async () => {
  const secret = randomUUID();
  const id = await uploadFile(secret);
  // A pass that begins meanwhile would empty the trash before the look.
  await processes.stop('worker');
  expect(await trash(user, id)).toBe(204);
  for (const other of ['one', 'two']) {
    expect(await trash(user, await user.upload(Buffer.from(other), { filename: other }))).toBe(204);
  }
  expect(await findPlaces(secret)).toEqual(FILE);
  await processes.start('worker');
  await until('it is gone', async () => (await findPlaces(secret)).length === 0);
});
