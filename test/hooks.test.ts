import type { Creation } from '../core/uploads/create.js';
import { type UploadHooks, type UploadQuestion, UploadRefused } from '../core/uploads/hooks.js';
import { settle } from '../core/uploads/settle.js';
import { startApp, type TestApp } from './support/app.js';
import { expectBooksRight } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { postFinal } from './support/concatenated-upload.js';
import { expectProblem, filesOf, post } from './support/plain-client.js';

/* Hooks that may say no: they refuse what has `no` in the name of the hook's step. */

let app: TestApp;
let user: TestUser;
let asked: [hook: string, id: string, byRequest: boolean][];
let answer: (filename: string | null | undefined) => void;

const question = (hook: string, { upload, actor }: UploadQuestion) => {
  asked.push([hook, upload.id, actor !== null]);
  answer(upload.metadata.filename);
};

const hooks: UploadHooks = {
  async beforeCreate({ id, metadata, actor }: Creation) {
    asked.push(['create', id, Boolean(actor.userId)]);
    if (metadata.filename === 'no creation') throw new UploadRefused('Not this one');
    return undefined;
  },
  beforeFinish: async (finish) => question('finish', finish),
  beforeEnd: async (end) => question('end', end),
};

beforeAll(async () => {
  app = await startApp(hooks);
  user = await registerUser(() => app.url);
});
beforeEach(() => {
  asked = [];
  answer = () => {};
});
afterEach(() => expectBooksRight(app.database));
afterAll(() => app?.close());

const named = (filename: string) => ({ 'Upload-Metadata': encodeMetadata({ filename }) });
const refuse = (filename: string, refusal: Error) => {
  answer = (name) => {
    if (name === filename) throw refusal;
  };
};
const row = async (id: string) =>
  (await app.database.query('SELECT * FROM uploads WHERE id = $1', [id])).rows[0];
const countFiles = async () => (await app.database.query('SELECT FROM files')).rows.length;

async function sendByTus(filename: string): Promise<{ id: string; sent: Response }> {
  const path = await user.create(3, named(filename));
  return { id: idOf(path), sent: await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc') };
}

test('each hook is asked once, by the request that it may refuse', async () => {
  const { id, sent } = await sendByTus('a.txt');
  expect(sent.status).toBe(204);
  expect((await user.tus('DELETE', `/uploads/${id}`)).status).toBe(204);
  expect(asked).toEqual([
    ['create', id, true],
    ['finish', id, true],
    ['end', id, true],
  ]);
});

test('a final upload is asked about when its partial uploads are complete, and they are not', async () => {
  refuse('no end', new UploadRefused('Not for us'));
  const partial = await user.create(3, { 'Upload-Concat': 'partial', ...named('no end') });
  expect((await user.tus('PATCH', partial, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
  expect(asked).toEqual([['create', idOf(partial), true]]);
  const refused = await postFinal(user, [partial], named('no end'));
  expect([refused.status, await refused.text()]).toEqual([403, 'Not for us\n']);
  const made = await postFinal(user, [partial], named('a.txt'));
  expect(made.status).toBe(201);
  expect(asked.slice(3)).toEqual([
    ['create', idOf(made.headers.get('Location') ?? ''), true],
    ['finish', idOf(made.headers.get('Location') ?? ''), true],
  ]);
});

test('an upload whose creation is refused does not exist', async () => {
  const created = await user.tus('POST', '/uploads', { 'Upload-Length': '3', ...named('no creation') });
  expect([created.status, await created.text()]).toEqual([403, 'Not this one\n']);
  const { rows } = await app.database.query('SELECT FROM uploads WHERE id = $1', [asked[0]?.[1]]);
  expect(rows).toEqual([]);
  const plain = await post(user, 'abc', {}, '?filename=no%20creation');
  expect(await expectProblem(plain, 403, 'refused')).toBe('Not this one');
});

test('an upload that is refused at its end becomes no file, and says why', async () => {
  refuse('no end', new UploadRefused('Not for us'));
  const before = await countFiles();
  const { id, sent } = await sendByTus('no end');
  expect([sent.status, await sent.text()]).toEqual([403, 'Not for us\n']);
  expect(await user.get(`/api/uploads/${id}`)).toMatchObject({
    status: 'terminated',
    error: { code: 'refused', detail: 'Not for us' },
  });
  expect(await row(id)).toMatchObject({ lease_holder: null, discarded_at: expect.any(Date) });
  expect((await user.tus('HEAD', `/uploads/${id}`)).status).toBe(410);
  const plain = await post(user, 'abc', {}, '?filename=no%20end');
  expect(await expectProblem(plain, 403, 'refused')).toBe('Not for us');
  expect(await countFiles()).toBe(before);
  const { rows } = await app.database.query(`SELECT data FROM all_events WHERE subject_id = $1 ORDER BY id`, [
    id,
  ]);
  expect(rows.at(-1)).toEqual({ data: { reason: 'Not for us' } });
});

test('a hook may choose the whole answer of tus', async () => {
  refuse(
    'teapot',
    new UploadRefused('short and stout', { status: 418, headers: { 'X-Tea': 'green' }, body: 'tea' }),
  );
  const { sent } = await sendByTus('teapot');
  expect([sent.status, sent.headers.get('X-Tea'), await sent.text()]).toEqual([418, 'green', 'tea']);
});

test('a hook that gives no answer changes nothing, and is asked again', async () => {
  refuse('later', new Error('no answer'));
  const { id, sent } = await sendByTus('later');
  expect(sent.status).toBe(500);
  expect(await row(id)).toMatchObject({ status: 'uploading', offset: '3', lease_holder: null });
  answer = () => {};
  expect((await user.tus('HEAD', `/uploads/${id}`)).headers.get('Upload-Offset')).toBe('3');
  expect(asked.map(([hook]) => hook)).toEqual(['create', 'finish', 'finish']);
  expect(await row(id)).toMatchObject({ status: 'finished' });
});

test('an upload that the reconciler settles has no request', async () => {
  refuse('alone', new Error('no answer'));
  const { id } = await sendByTus('alone');
  asked = [];
  refuse('alone', new UploadRefused('Nobody asked'));
  const lease = await app.deps.leases.tryAcquire(id);
  if (!lease) throw new Error('the lease is not free');
  await expect(settle(app.deps, lease)).rejects.toThrow(UploadRefused);
  await lease.release();
  expect(asked).toEqual([['finish', id, false]]);
  expect(await row(id)).toMatchObject({ status: 'terminated', error: { code: 'refused' } });
});

test('a refused deletion leaves the file', async () => {
  const [file] = await filesOf(await post(user, 'abc', {}, '?filename=kept'));
  const id = file?.id ?? '';
  refuse('kept', new UploadRefused('It stays'));
  expect((await user.tus('DELETE', `/uploads/${id}`)).status).toBe(403);
  expect(await row(id)).toMatchObject({ status: 'finished', lease_holder: null });
  expect((await user.get(`/api/files/${id}`)).status).toBe('pending');
});

test('no hook is asked when a request has failed', async () => {
  const wrong = await post(user, 'abc', {}, `?filename=failed&sha256=${'0'.repeat(64)}`);
  await expectProblem(wrong, 422, 'checksum_mismatch');
  expect(asked.map(([hook]) => hook)).toEqual(['create']);
});
