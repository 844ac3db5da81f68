import { expectBooksRight } from './support/books.js';
import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { say } from './support/ietf-client.js';
import { expectProblem, filesOf, post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* Hooks by HTTP, in the form of tusd: what a receiver is asked, and what its answers do. */

let receiver: HookReceiver;
let processes: Processes;
let user: TestUser;

const ALL = 'pre-create,pre-finish,pre-terminate,post-receive';

beforeAll(async () => {
  receiver = await startHookReceiver();
  processes = await startProcesses(
    {
      HOOK_URL: receiver.url,
      HOOK_EVENTS: ALL,
      HOOK_FORWARD_HEADERS: 'Cookie, x-tenant',
      // Nothing here waits for its end, and a busy machine may need long.
      HOOK_TIMEOUT_SECONDS: '60',
      HOOK_ATTEMPTS: '2',
      HOOK_BACKOFF_MS: '10',
    },
    ['server'],
  );
  user = await registerUser(() => processes.url);
});
let before = 0;
beforeEach(async () => {
  receiver.reset();
  before = await countUploads();
});
afterEach(() => expectBooksRight(processes.database));
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const named = (filename: string) => ({ 'Upload-Metadata': encodeMetadata({ filename }) });
const row = async (id: string) =>
  (await processes.database.query('SELECT * FROM uploads WHERE id = $1', [id])).rows[0];
const countUploads = async () =>
  (await processes.database.query(`SELECT FROM uploads WHERE status = 'uploading'`)).rows.length;
const askedFor = (type: string) => receiver.asked.filter((one) => one.type === type);

const send = (path: string, body = 'abc', as = user) => as.tus('PATCH', path, { 'Upload-Offset': '0' }, body);

/** Answers one type of question with this, and all others with yes. */
function reply(type: string, answer: object): void {
  receiver.answer = (asked) => (asked.type === type ? answer : {});
}

const REFUSAL = {
  HTTPResponse: {
    StatusCode: 402,
    Body: '{"message":"pay first"}',
    Header: { 'Content-Type': 'application/json' },
  },
  RejectUpload: true,
};

test('a receiver is asked in the form of tusd', async () => {
  const path = await user.create(3, {
    ...named('a.txt'),
    'X-Tenant': 'one',
    Cookie: 'a=b',
    'X-Other': 'two',
  });
  expect((await send(path)).status).toBe(204);
  expect((await user.tus('DELETE', path)).status).toBe(204);
  const id = idOf(path);
  expect(receiver.asked.map(({ body }) => body)).toEqual([
    {
      Type: 'pre-create',
      Event: {
        Upload: {
          ID: '',
          Size: 3,
          SizeIsDeferred: false,
          Offset: 0,
          MetaData: { filename: 'a.txt' },
          IsPartial: false,
          IsFinal: false,
          PartialUploads: null,
          Storage: null,
        },
        HTTPRequest: {
          Method: 'POST',
          URI: '/uploads',
          RemoteAddr: expect.stringMatching(/^(127\.0\.0\.1|\[::ffff:127\.0\.0\.1\]):[1-9]\d+$/),
          Header: expect.objectContaining({
            Host: [new URL(processes.url).host],
            'Tus-Resumable': ['1.0.0'],
            'Upload-Length': ['3'],
            'X-Tenant': ['one'],
            Cookie: ['a=b'],
          }),
        },
      },
    },
    expect.objectContaining({ Type: 'post-receive' }),
    expect.objectContaining({ Type: 'pre-finish' }),
    expect.objectContaining({ Type: 'pre-terminate' }),
  ]);
  for (const { type, event, headers } of receiver.asked) {
    const { Upload, HTTPRequest } = event;
    expect(Upload).toMatchObject(
      type === 'pre-create' ? {} : { ID: id, Offset: 3, MetaData: { filename: 'a.txt' } },
    );
    expect(headers).toMatchObject({
      'content-type': 'application/json',
      'hook-attempt': '1',
      'hook-id': `${type}:${id}`,
      'hook-owner': user.id,
    });
    // It would open this server.
    expect(HTTPRequest.Header.Authorization).toBeUndefined();
  }
  const [created, , finished] = receiver.asked;
  expect(created?.headers).toMatchObject({ 'x-tenant': 'one', cookie: 'a=b' });
  expect(created?.headers['x-other']).toBeUndefined();
  expect(finished?.event.HTTPRequest).toMatchObject({ Method: 'PATCH', URI: path });
});

test('uploads of unknown length and of several parts are described', async () => {
  const path = await user.create(null);
  await user.tus('DELETE', path);
  const partial = await user.create(3, { 'Upload-Concat': 'partial' });
  expect((await send(partial)).status).toBe(204);
  const joined = await user.tus('POST', '/uploads', {
    'Upload-Concat': `final;${partial} ${partial}`,
    ...named('b'),
  });
  expect(joined.status).toBe(201);
  const id = idOf(partial);
  expect(askedFor('pre-create').map(({ event }) => event.Upload)).toMatchObject([
    { Size: 0, SizeIsDeferred: true },
    { Size: 3, IsPartial: true, PartialUploads: null },
    { Size: 6, SizeIsDeferred: false, IsFinal: true, PartialUploads: [id, id] },
  ]);
  expect(askedFor('pre-finish').map(({ event }) => event.Upload)).toMatchObject([
    {
      ID: idOf(joined.headers.get('Location') ?? ''),
      Size: 6,
      Offset: 6,
      IsFinal: true,
      PartialUploads: [id, id],
    },
  ]);
});

describe('a refused creation', () => {
  beforeEach(() => reply('pre-create', REFUSAL));
  afterEach(async () => {
    expect(receiver.types()).toEqual(['pre-create']);
    expect(await countUploads()).toBe(before);
  });

  test('by tus has the answer of the hook', async () => {
    const refused = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
    expect([refused.status, refused.headers.get('Content-Type')]).toEqual([402, 'application/json']);
    expect(await refused.json()).toEqual({ message: 'pay first' });
  });

  test('by tus, with its bytes, too', async () => {
    const headers = { 'Upload-Length': '3', 'Content-Type': 'application/offset+octet-stream' };
    expect((await user.tus('POST', '/uploads', headers, 'abc')).status).toBe(402);
  });

  test('by the IETF draft too', async () => {
    const refused = await say(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?1' },
      body: Buffer.from('abc'),
    });
    expect(refused).toMatchObject({
      status: 402,
      headers: { 'upload-complete': '?1' },
      body: '{"message":"pay first"}',
    });
  });

  test('by a plain POST has the form of all problems, and the text of the hook', async () => {
    expect(await expectProblem(await post(user, 'abc'), 403, 'refused')).toBe('{"message":"pay first"}');
  });
});

test('a refusal without an answer is one of this server', async () => {
  reply('pre-create', { RejectUpload: true });
  const refused = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
  expect([refused.status, await refused.text()]).toEqual([403, expect.stringMatching(/./)]);
});

describe('a refused end', () => {
  beforeEach(() =>
    reply('pre-finish', { RejectUpload: true, HTTPResponse: { StatusCode: 422, Body: 'not this one' } }),
  );

  test('by tus ends the upload, and tells its owner', async () => {
    const path = await user.create(3);
    const refused = await send(path);
    expect([refused.status, await refused.text()]).toEqual([422, 'not this one']);
    expect(await user.get(`/api${path}`)).toMatchObject({
      status: 'terminated',
      error: { code: 'refused', detail: 'not this one' },
    });
  });

  test('by the IETF draft too', async () => {
    const refused = await say(processes.url, user, 'POST', '/uploads', {
      headers: { 'Upload-Complete': '?1' },
      body: Buffer.from('abc'),
    });
    expect(refused).toMatchObject({ status: 422, body: 'not this one' });
    expect(await countUploads()).toBe(before);
  });

  test('by a plain POST too', async () => {
    expect(await expectProblem(await post(user, 'abc'), 403, 'refused')).toBe('not this one');
    expect(await countUploads()).toBe(before);
  });
});

test('a refused deletion leaves the upload, and the file', async () => {
  const path = await user.create(3);
  reply('pre-terminate', { RejectTermination: true, HTTPResponse: { StatusCode: 409, Body: 'it stays' } });
  expect((await user.tus('DELETE', path)).status).toBe(409);
  const byDraft = await say(processes.url, user, 'DELETE', path);
  expect(byDraft).toMatchObject({ status: 409, body: 'it stays' });
  expect((await send(path)).status).toBe(204);
  const deleted = await user.fetch(`/api/files/${idOf(path)}?permanent=1`, { method: 'DELETE' });
  expect(await expectProblem(deleted, 403, 'refused')).toBe('it stays');
  expect((await user.get(`/api/files/${idOf(path)}`)).status).toBe('pending');
  // Into the trash it goes without a question: it can be restored.
  expect((await user.fetch(`/api/files/${idOf(path)}`, { method: 'DELETE' })).status).toBe(204);
  expect(askedFor('pre-terminate').map(({ headers }) => headers['hook-attempt'])).toEqual(['1', '2', '3']);
});

test('the answers of hooks go into the answer to the client', async () => {
  receiver.answer = ({ type }) => ({
    HTTPResponse: {
      Header: {
        'X-Hook': type,
        Link: '<https://example.org>',
        'Upload-Offset': '99',
        Location: '/elsewhere',
      },
      ...(type === 'pre-finish' ? { Body: 'done' } : {}),
    },
  });
  const created = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
  const location = created.headers.get('Location') ?? '';
  expect([created.status, created.headers.get('X-Hook'), location]).toEqual([
    201,
    'pre-create',
    expect.stringMatching(/\/uploads\/[0-9a-f-]{36}$/),
  ]);
  expect(created.headers.get('Access-Control-Expose-Headers')).toMatch(/Location.*, X-Hook, Link/);
  const sent = await send(location);
  expect([
    sent.status,
    sent.headers.get('X-Hook'),
    sent.headers.get('Upload-Offset'),
    await sent.text(),
  ]).toEqual([200, 'pre-finish', '3', 'done']);
  const head = await user.tus('HEAD', location);
  expect([head.status, head.headers.get('X-Hook')]).toEqual([200, null]);
  const deleted = await user.tus('DELETE', location);
  expect([deleted.status, deleted.headers.get('X-Hook')]).toEqual([204, 'pre-terminate']);
  const plain = await post(user, 'abc');
  expect([plain.status, plain.headers.get('X-Hook')]).toEqual([201, 'pre-finish']);
  expect(await filesOf(plain)).toHaveLength(1);
  const byDraft = await say(processes.url, user, 'POST', '/uploads', {
    headers: { 'Upload-Complete': '?1' },
    body: Buffer.from('abc'),
  });
  expect(byDraft).toMatchObject({
    status: 201,
    body: 'done',
    headers: { 'x-hook': 'pre-finish', 'upload-offset': '3' },
  });
});

test('a hook may replace the metadata', async () => {
  reply('pre-create', { ChangeFileInfo: { MetaData: { filename: 'dir/new.txt', project: '12', flag: '' } } });
  const path = await user.create(3, named('old.txt'));
  expect(await row(idOf(path))).toMatchObject({
    filename: 'new.txt',
    metadata: { filename: 'new.txt', project: '12', flag: null },
  });
  const head = await user.tus('HEAD', path);
  expect(head.headers.get('Upload-Metadata')).toEqual(expect.stringContaining(`filename ${btoa('new.txt')}`));
  const [file] = await filesOf(await post(user, 'abc', {}, '?filename=old.txt'));
  expect(file?.filename).toBe('new.txt');
  await send(path);
  expect(askedFor('pre-finish').at(-1)?.event.Upload.MetaData).toEqual({
    filename: 'new.txt',
    project: '12',
    flag: '',
  });
});

test.each([
  ['an id', { ID: 'my-id' }],
  ['a place in the store', { Storage: { Path: '/tmp/x' } }],
  ['a key that no header can hold', { MetaData: { 'a b': 'c' } }],
  ['a name that is no name', { MetaData: { filename: '..' } }],
  ['control characters', { MetaData: { filename: 'a\u0000' } }],
  ['too much metadata', { MetaData: { big: 'x'.repeat(9000) } }],
])('%s is refused loudly', async (_what, ChangeFileInfo) => {
  reply('pre-create', { ChangeFileInfo });
  const created = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
  expect([created.status, await created.text()]).toEqual([502, expect.stringContaining('hook')]);
  await expectProblem(await post(user, 'abc'), 502, 'hook_unusable');
  expect(await countUploads()).toBe(before);
});
