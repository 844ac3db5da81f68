import { randomBytes } from 'node:crypto';
import { expectBooksRight, usageOf } from './support/books.js';
import { registerUser, type TestUser } from './support/client.js';
import { restore, trash } from './support/deletions.js';
import { listKeys } from './support/folder.js';
import { fileKeyOf } from './support/objects.js';
import { runPasses } from './support/passes.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Files that the worker deletes for good because of their age, with a server and a worker. */

let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ TRASH_DAYS: '7', FILE_RETENTION_HOURS: '480' });
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const uploadFile = () => user.upload(randomBytes(6), { filename: 'a.txt' });

/** Lets days pass for one file. */
const letPass = (id: string, column: 'created_at' | 'deleted_at', days: number) =>
  processes.database.query(`UPDATE files SET ${column} = ${column} - $2 * interval '1 day' WHERE id = $1`, [
    id,
    days,
  ]);

const isGone = async (id: string) =>
  (await processes.database.query('SELECT FROM files WHERE id = $1', [id])).rowCount === 0;

/** The line of the audit log that tells of the deletion. */
const purgeOf = async (id: string) =>
  (await admin.get(`/api/admin/audit?type=file.purged&subjectId=${id}&system=1`)).items;

test('a file can be restored from the trash for TRASH_DAYS, and is then deleted with its bytes', async () => {
  const [old, young] = [await uploadFile(), await uploadFile()];
  const key = await fileKeyOf(processes, old);
  for (const id of [old, young]) expect(await trash(user, id)).toBe(204);
  await letPass(old, 'deleted_at', 7);
  await letPass(young, 'deleted_at', 6.99);
  await runPasses(processes, () => isGone(old));
  await until('its bytes are deleted', async () => !(await listKeys(processes.dataDir)).includes(key));
  expect(await restore(user, old)).toBe(404);
  expect((await user.tus('HEAD', `/uploads/${old}`)).status).toBe(410);
  expect(await restore(user, young)).toBe(200);
  await until('the log is written', async () => (await purgeOf(old)).length > 0);
  expect(await purgeOf(old)).toMatchObject([{ actor: null, result: 'ok', data: { reason: 'trash_period' } }]);
  await expectBooksRight(processes.database);
});

test('no file outlives FILE_RETENTION_HOURS, whether its owner has deleted it or not', async () => {
  const owner = await registerUser(() => processes.url);
  const upload = () => owner.upload(randomBytes(6), { filename: 'a.txt' });
  const [kept, old, trashed, restored, young] = await Promise.all(Array.from({ length: 5 }, upload));
  const all = [kept, old, trashed, restored, young].map(String);
  const keys = await Promise.all(all.map((id) => fileKeyOf(processes, id)));
  const overdue = all.slice(1, 4);
  for (const id of overdue.slice(1)) await trash(owner, id);
  expect(await restore(owner, String(restored))).toBe(200);
  await Promise.all(overdue.map((id) => letPass(id, 'created_at', 20)));
  await letPass(String(young), 'created_at', 19.99);
  await runPasses(processes, async () => (await Promise.all(overdue.map(isGone))).every((gone) => gone));
  const left = (await owner.get('/api/files')).items.map(({ id }: { id: string }) => id);
  expect(left.sort()).toEqual([String(kept), String(young)].sort());
  expect(await usageOf(owner)).toEqual({ bytes: 12, files: 2 });
  await until('the bytes of the old files are deleted', async () => {
    const stored = await listKeys(processes.dataDir);
    return keys.slice(1, 4).every((key) => !stored.includes(key)) && stored.includes(keys[0] ?? '');
  });
  await until('the log is written', async () => (await purgeOf(String(old))).length > 0);
  expect(await purgeOf(String(old))).toMatchObject([{ actor: null, data: { reason: 'retention' } }]);
  await expectBooksRight(processes.database);
});
