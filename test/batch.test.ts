import { randomUUID } from 'node:crypto';
import { expectBooksRight, setQuota, usageOf } from './support/books.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { trash } from './support/deletions.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf, problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';

/* POST /api/files/batch: one request for many files, with an answer for each. */

interface Item {
  id: string;
  status: number;
  file?: FileJson;
  problem?: { status: number; code: string; detail?: string };
}

let processes: Processes;
let admin: TestUser;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses();
  admin = await registerUser(() => processes.url);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

const post = (body: object, who = user) => send(who, 'POST', '/api/files/batch', body);

async function batch(action: string, ids: string[], more: object = {}, who = user): Promise<Item[]> {
  const answer = await post({ ids, action, ...more }, who);
  expect(answer.status).toBe(200);
  const { items } = await answer.json();
  expect(items.map(({ id }: Item) => id)).toEqual(ids);
  return items;
}

/** Statuses, with the code of a refusal. */
const summary = (items: Item[]) => items.map(({ status, problem }) => problem?.code ?? status);

const uploadFiles = (count: number, who = user) =>
  Promise.all(Array.from({ length: count }, () => who.upload(Buffer.from('a file'), { filename: 'a.txt' })));

/** Files whose processing has ended. */
async function settledFiles(count: number, who = user): Promise<string[]> {
  const ids = await uploadFiles(count, who);
  await Promise.all(ids.map((id) => who.settled(id)));
  return ids;
}

test('files are deleted and restored, each as by its own route', async () => {
  const owner = await registerUser(() => processes.url);
  const ids = await settledFiles(3, owner);
  expect(summary(await batch('delete', ids, {}, owner))).toEqual([204, 204, 204]);
  expect((await owner.get('/api/files')).items).toEqual([]);
  expect(await usageOf(owner)).toEqual({ bytes: 0, files: 0 });
  const restored = await batch('restore', ids.toReversed(), {}, owner);
  expect(restored.map(({ status, file }) => [status, file?.id, file?.status])).toEqual(
    ids.toReversed().map((id) => [200, id, 'completed']),
  );
  expect(restored[0]?.file).toMatchObject(await withoutLinks(owner, ids[2] ?? ''));
  expect(await usageOf(owner)).toEqual({ bytes: 18, files: 3 });
  expect((await eventsOf(processes.database, ids[0] ?? '')).slice(-2)).toEqual([
    'file.deleted',
    'file.restored',
  ]);
  await expectBooksRight(processes.database);
});

async function withoutLinks(owner: TestUser, id: string): Promise<Partial<FileJson>> {
  const { links: _links, ...file } = await owner.get(`/api/files/${id}`);
  return file;
}

test('the first files get the room that is left', async () => {
  const owner = await registerUser(() => processes.url);
  const ids = (await settledFiles(3, owner)).sort();
  // One after the other, so that the first is the oldest in the trash.
  for (const id of ids) await batch('delete', [id], {}, owner);
  await setQuota(admin, owner, { maxFiles: 2, maxBytes: 1000 });
  // The trash may hold as much as the quota, so the worker may have purged the oldest file by now.
  const room = ids.slice(1);
  expect(summary(await batch('restore', [...room, ids[0] ?? ''], {}, owner)).slice(0, 2)).toEqual([200, 200]);
  expect(await usageOf(owner)).toEqual({ bytes: 12, files: 2 });
  await batch('delete', room, {}, owner);
  await setQuota(admin, owner, { maxFiles: 1, maxBytes: 1000 });
  const outcomes = summary(await batch('restore', room, {}, owner));
  expect(outcomes.filter((outcome) => outcome === 200)).toHaveLength(1);
  await expectBooksRight(processes.database);
});

test('one bad id does not stop the others, and foreign, unknown and malformed ids are answered alike', async () => {
  const [mine = '', trashed = ''] = await settledFiles(2);
  const [theirs = ''] = await settledFiles(1, admin);
  await trash(user, trashed);
  const unknown = randomUUID();
  const items = await batch('process', [theirs, unknown, 'no id', '', trashed, mine]);
  expect(summary(items)).toEqual([...Array(5).fill('not_found'), 200]);
  const [first, ...others] = items.slice(0, 4).map(({ problem }) => problem);
  for (const other of others) expect(other).toEqual(first);
  expect(first).toEqual({ type: 'about:blank', title: 'Not found', status: 404, code: 'not_found' });
  expect(await admin.get(`/api/files/${theirs}`)).toMatchObject({ status: 'completed' });
  // Only what belongs to somebody else is a refusal.
  const refused = await eventsOf(processes.database, theirs);
  expect(refused.filter((type) => type === 'access!')).toHaveLength(1);
  expect(await eventsOf(processes.database, unknown)).toEqual([]);
});

test('each foreign file is noted in the log before the answer', async () => {
  const theirs = await settledFiles(3, admin);
  await batch('delete', theirs);
  for (const id of theirs) expect(await eventsOf(processes.database, id)).toContain('access!');
});

test('an id that is named twice is handled once and answered at each place', async () => {
  const [one = '', other = ''] = await settledFiles(2);
  const items = await batch('delete', [one, other, one.toUpperCase(), one]);
  expect(summary(items)).toEqual([204, 204, 204, 204]);
  const events = await eventsOf(processes.database, one);
  expect(events.filter((type) => type === 'file.deleted')).toHaveLength(1);
});

test('processing is controlled, and a wrong state is refused for its file', async () => {
  const [done = ''] = await settledFiles(1);
  await processes.stop('worker');
  const ids = await uploadFiles(2);
  expect(summary(await batch('pause', [...ids, done]))).toEqual([200, 200, 'wrong_state']);
  const again = await batch('pause', ids);
  expect(again[0]?.problem).toMatchObject({ detail: expect.stringMatching(/possible now: resume, cancel$/) });
  const resumed = await batch('resume', ids);
  expect(resumed.map(({ file }) => file?.status)).toEqual(['pending', 'pending']);
  expect(summary(await batch('cancel', ids))).toEqual([200, 200]);
  expect(summary(await batch('retry', ids))).toEqual([200, 200]);
  expect(summary(await batch('process', [done, ...ids], { priority: 'high' }))).toEqual([
    200,
    'wrong_state',
    'wrong_state',
  ]);
  await processes.start('worker');
  for (const id of [done, ...ids]) expect(await user.settled(id)).toMatchObject({ status: 'completed' });
  const { rows } = await processes.database.query('SELECT priority FROM files WHERE id = $1', [done]);
  expect(rows).toEqual([{ priority: 1 }]);
});

test('a hundred files are processed again by one request', async () => {
  const owner = await registerUser(() => processes.url);
  const ids = await settledFiles(100, owner);
  const items = await batch('process', ids, { priority: 'low' }, owner);
  expect(new Set(summary(items))).toEqual(new Set([200]));
  // The request has added their jobs; the relay comes only every half minute.
  const { rows } = await processes.database.query(
    `SELECT count(DISTINCT data ->> 'fileId')::int AS jobs FROM bullmq.job
     WHERE data ->> 'fileId' = ANY ($1) AND (data ->> 'run')::int = 2`,
    [ids],
  );
  expect(rows).toEqual([{ jobs: 100 }]);
  await until('all are completed again', async () => {
    const { items: files } = await owner.get('/api/files?limit=200');
    return files.every(({ status }: FileJson) => status === 'completed');
  });
});

test.each([
  [{}],
  [{ ids: [], action: 'delete' }],
  [{ ids: 'x', action: 'delete' }],
  [{ ids: [1], action: 'delete' }],
  [{ ids: Array(101).fill('x'), action: 'delete' }],
  [{ ids: ['x'] }],
  [{ ids: ['x'], action: 'purge' }],
  [{ ids: ['x'], action: 'constructor' }],
  [{ ids: ['x'], action: 'process', settings: { quality: 0 } }],
  [{ ids: ['x'], action: 'process', settings: [] }],
  [{ ids: ['x'], action: 'retry', settings: {} }],
  [{ ids: ['x'], action: 'process', priority: 'urgent' }],
  [{ ids: ['x'], action: 'delete', priority: 'low' }],
  [{ ids: ['x'], action: 'delete', permanent: true }],
])('%j is refused as a whole', async (body) => {
  expect(await problemOf(await post(body))).toEqual([400, 'invalid_request']);
});

test('each file counts as one change', async () => {
  await processes.stop('server');
  await processes.start('server', { RATE_LIMIT_PROCESSING: '5/10s' });
  try {
    const owner = await registerUser(() => processes.url);
    const ids = await settledFiles(6, owner);
    const answer = await post({ ids: [...ids, ids[0]], action: 'delete' }, owner);
    expect(answer.status).toBe(200);
    const { items } = await answer.json();
    // The sixth file is one too many; the seventh id is that of the first file.
    expect(summary(items)).toEqual([204, 204, 204, 204, 204, 'rate_limited', 204]);
    expect(Number(answer.headers.get('Retry-After'))).toBeGreaterThan(0);
    expect(await owner.get(`/api/files/${ids[5]}`)).toMatchObject({ id: ids[5] });
    const refused = await post({ ids: [ids[5]], action: 'delete' }, owner);
    expect(await problemOf(refused)).toEqual([429, 'rate_limited']);
  } finally {
    await processes.stop('server');
    await processes.start('server');
  }
});
