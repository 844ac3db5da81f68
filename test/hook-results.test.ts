import { registerUser, type TestUser } from './support/client.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { type Processes, startProcesses } from './support/processes.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/* An admin sees how the receiver of hooks has answered, and can try it. */

let receiver: HookReceiver;
let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  receiver = await startHookReceiver();
  const url = new URL(receiver.url);
  url.username = 'user';
  url.password = 'sekret';
  url.search = '?key=sekret';
  processes = await startProcesses(
    { HOOK_URL: url.href, HOOK_EVENTS: 'pre-create,pre-finish', HOOK_ATTEMPTS: '2', HOOK_BACKOFF_MS: '1' },
    ['server'],
  );
  admin = await registerUser(() => processes.url);
});
beforeEach(() => receiver.reset());
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const create = () => admin.tus('POST', '/uploads', { 'Upload-Length': '3' });

test('the results are counted, and the address tells no secret', async () => {
  expect((await create()).status).toBe(201);
  receiver.answer = () => ({ RejectUpload: true });
  expect((await create()).status).toBe(403);
  receiver.answer = (_asked, res) => void res.writeHead(500).end();
  expect((await create()).status).toBe(503);
  const { results, ...rest } = await until('the results', async () => {
    const shown = await admin.get('/api/admin/hooks');
    return shown.results[0].asked === 3 && shown;
  });
  expect(rest).toEqual({
    url: receiver.url,
    events: ['pre-create', 'pre-finish'],
    absent: 'refuse',
    auth: false,
  });
  expect(results).toHaveLength(7);
  expect(results[0]).toEqual({
    type: 'pre-create',
    asked: 3,
    refused: 1,
    failed: 1,
    lastAt: expect.any(String),
    lastMs: expect.any(Number),
    lastFailedAt: expect.any(String),
    lastError: 'the hook answered 500',
  });
  expect(results[1]).toMatchObject({ type: 'pre-finish', asked: 0, lastAt: null });
  // A user and a password in the address are credentials.
  expect(receiver.asked[0]?.headers.authorization).toBe(`Basic ${btoa('user:sekret')}`);
});

test('a trial asks, and tells what came of it', async () => {
  const attempt = async () => (await send(admin, 'POST', '/api/admin/hooks/test', {})).json();
  expect(await attempt()).toEqual({
    answered: true,
    accepted: true,
    durationMs: expect.any(Number),
    error: null,
  });
  expect(receiver.asked).toMatchObject([{ type: 'pre-create', headers: { 'hook-test': 'true' } }]);
  receiver.answer = () => ({ RejectUpload: true });
  expect(await attempt()).toMatchObject({ answered: true, accepted: false });
  receiver.answer = (_asked, res) => void res.writeHead(302, { Location: '/' }).end();
  expect(await attempt()).toMatchObject({ answered: false, accepted: null, error: 'the hook answered 302' });
});
