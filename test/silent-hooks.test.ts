import { expectBooksRight } from './support/books.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Hooks by HTTP whose receiver does not answer, or is asked again; and a hook that stops an upload. */

let receiver: HookReceiver;
let processes: Processes;
let user: TestUser;
/** On a server that takes silence for a yes. */
let trusting: TestUser;

beforeAll(async () => {
  receiver = await startHookReceiver();
  processes = await startProcesses(
    {
      HOOK_URL: receiver.url,
      HOOK_EVENTS: 'pre-create,pre-finish,pre-terminate,post-receive',
      // Not less: on a busy machine the receivers that do answer need some of it.
      HOOK_TIMEOUT_SECONDS: '5',
      HOOK_ATTEMPTS: '2',
      HOOK_BACKOFF_MS: '10',
    },
    ['server'],
  );
  await processes.start('server-2', {
    HOOK_ABSENT: 'allow',
    HOOK_EVENTS: 'pre-create,pre-finish,pre-terminate',
  });
  user = await registerUser(() => processes.url);
  trusting = user.at(() => processes.urlOf('server-2'));
});
beforeEach(() => receiver.reset());
afterEach(() => expectBooksRight(processes.database));
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const row = async (id: string) =>
  (await processes.database.query('SELECT * FROM uploads WHERE id = $1', [id])).rows[0];
const askedFor = (type: string) => receiver.asked.filter((one) => one.type === type);
const send = (path: string, as = user) => as.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc');

const SILENT: [
  string,
  Parameters<typeof startHookReceiver>[never] | HookReceiver['answer'],
  attempts: number,
][] = [
  ['says nothing in time', () => undefined, 1],
  ['breaks the connection', (_asked, res) => void res.destroy(), 2],
  ['answers 500', (_asked, res) => void res.writeHead(500).end(), 2],
  ['answers 404', (_asked, res) => void res.writeHead(404).end(), 1],
  ['redirects', (_asked, res) => void res.writeHead(307, { Location: receiver.url }).end(), 1],
  ['sends no JSON', (_asked, res) => void res.setHeader('Content-Type', 'application/json').end('<html>'), 1],
  ['sends another type', (_asked, res) => void res.setHeader('Content-Type', 'text/html').end('{}'), 1],
  ['sends no type', (_asked, res) => void res.end('{}'), 1],
  ['sends wrong types', () => ({ RejectUpload: 'no' }), 1],
  ['sends too much', () => ({ HTTPResponse: { Body: 'x'.repeat(100_000) } }), 1],
  [
    'never ends its answer',
    (_asked, res) => void res.setHeader('Content-Type', 'application/json').write('{'),
    1,
  ],
];

test.each(SILENT)('a receiver that %s refuses, unless silence is a yes', async (_what, script, attempts) => {
  receiver.answer = script as HookReceiver['answer'];
  const [refused, allowed] = await Promise.all([
    user.tus('POST', '/uploads', { 'Upload-Length': '3' }),
    trusting.tus('POST', '/uploads', { 'Upload-Length': '3' }),
  ]);
  expect([refused.status, refused.headers.has('Retry-After'), allowed.status]).toEqual([503, true, 201]);
  expect(askedFor('pre-create')).toHaveLength(2 * attempts);
  const path = new URL(allowed.headers.get('Location') ?? '').pathname;
  expect((await trusting.tus('DELETE', path)).status).toBe(204);
});

test('a receiver that is there again answers the second attempt, which says so', async () => {
  receiver.answer = ({ headers }, res) =>
    headers['hook-attempt'] === '1' ? void res.writeHead(503).end() : {};
  const path = await user.create(3);
  expect((await send(path)).status).toBe(204);
  expect(
    receiver.asked
      .filter(({ type }) => type !== 'post-receive')
      .map(({ type, headers }) => [type, headers['hook-attempt']]),
  ).toEqual([
    ['pre-create', '1'],
    ['pre-create', '2'],
    ['pre-finish', '1'],
    ['pre-finish', '2'],
  ]);
  const ids = new Set(askedFor('pre-create').map(({ headers }) => headers['hook-id']));
  expect(ids.size).toBe(1);
});

test('an upload waits for a receiver that is away, and every repetition says so', async () => {
  const path = await user.create(3);
  receiver.answer = (_asked, res) => void res.writeHead(404).end();
  expect((await send(path)).status).toBe(503);
  // Clients take any other status of a HEAD for the loss of the upload.
  expect((await user.tus('HEAD', path)).status).toBe(423);
  expect(await row(idOf(path))).toMatchObject({ status: 'uploading', offset: '3', lease_holder: null });
  receiver.answer = () => ({});
  const head = await user.tus('HEAD', path);
  expect([head.status, head.headers.get('Upload-Offset')]).toEqual([200, '3']);
  expect(await row(idOf(path))).toMatchObject({ status: 'finished' });
  expect(askedFor('pre-finish').map(({ headers }) => headers['hook-attempt'])).toEqual(['1', '2', '3']);
});

test('the reconciler asks without a request', async () => {
  const path = await user.create(3);
  receiver.answer = ({ type }, res) => (type === 'pre-finish' ? void res.writeHead(404).end() : {});
  expect((await send(path)).status).toBe(503);
  receiver.reset();
  await processes.start('worker');
  await until('the upload to be finished', async () => (await row(idOf(path))).status === 'finished');
  await processes.stop('worker');
  const [asked] = askedFor('pre-finish');
  expect(asked?.event.HTTPRequest).toEqual({ Method: '', URI: '', RemoteAddr: '', Header: {} });
  expect(asked?.headers['hook-attempt']).toBe('2');
});

test('a server that is killed between the answer and its effect asks again, and says so', async () => {
  const path = await user.create(3);
  const gone = await user.create(3);
  let answered = 0;
  receiver.answer = async ({ type }, res) => {
    if (type !== 'pre-finish' && type !== 'pre-terminate') return {};
    answered++;
    await processes.kill('server');
    res.destroy();
    return undefined;
  };
  await expect(send(path)).rejects.toThrow();
  await until('the question', () => answered === 1);
  await processes.start('server');
  await expect(user.tus('DELETE', gone)).rejects.toThrow();
  await until('the other question', () => answered === 2);
  await processes.start('server');
  receiver.answer = () => ({});
  expect((await user.tus('HEAD', path)).headers.get('Upload-Offset')).toBe('3');
  expect((await user.tus('DELETE', gone)).status).toBe(204);
  const again = receiver.asked
    .filter(({ type }) => type === 'pre-finish' || type === 'pre-terminate')
    .map(({ type, headers }) => [type, headers['hook-attempt']]);
  expect(again).toEqual([
    ['pre-finish', '1'],
    ['pre-terminate', '1'],
    ['pre-finish', '2'],
    ['pre-terminate', '2'],
  ]);
});

test('a hook stops an upload that sends its bytes', async () => {
  const path = await user.create(100_000_000);
  const answer = { StopUpload: true, HTTPResponse: { StatusCode: 410, Body: 'the project is gone' } };
  receiver.answer = ({ type }) => (type === 'post-receive' ? answer : {});
  let open = true;
  async function* slowly() {
    for (; open; await new Promise((resolve) => setTimeout(resolve, 20))) yield Buffer.alloc(65_536);
  }
  const stopped = await user.tus('PATCH', path, { 'Upload-Offset': '0' }, slowly() as never);
  open = false;
  expect([stopped.status, await stopped.text()]).toEqual([410, 'the project is gone']);
  expect(await user.get(`/api${path}`)).toMatchObject({
    status: 'terminated',
    error: { code: 'refused', detail: 'the project is gone' },
  });
});
