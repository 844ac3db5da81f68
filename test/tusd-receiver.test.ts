import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { startTusdReceiver, type TusdReceiver } from './support/tusd-receiver.js';
import { until } from './support/until.js';

/* A receiver that was written for tusd, in Python, works as it is. */

let receiver: TusdReceiver;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  receiver = await startTusdReceiver();
  processes = await startProcesses({
    HOOK_URL: receiver.url,
    HOOK_EVENTS: 'pre-create,post-create,post-receive,pre-finish,post-finish,pre-terminate,post-terminate',
  });
  user = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const named = (filename: string) => ({ 'Upload-Metadata': encodeMetadata({ filename, extra: 'x' }) });

test('it refuses an upload without a name', async () => {
  const refused = await user.tus('POST', '/uploads', { 'Upload-Length': '3' });
  expect([refused.status, refused.headers.get('X-Some-Header'), await refused.text()]).toEqual([
    400,
    'yes',
    'no filename provided',
  ]);
});

test('it hears of all of an upload, and changes its metadata and its answers', async () => {
  const path = await user.create(3, named('a.txt'));
  const sent = await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc');
  expect([sent.status, sent.headers.get('Link')]).toEqual([
    204,
    '<https://example.com/files/1>; rel="related"',
  ]);
  expect((await user.tus('DELETE', path)).status).toBe(204);
  const ofIt = () =>
    receiver.printed.filter(({ upload }) => upload.ID === idOf(path)).map(({ type }) => type);
  await until('the last hook', () => ofIt().includes('post-terminate'));
  expect(ofIt().sort()).toEqual(
    ['post-create', 'post-receive', 'pre-finish', 'post-finish', 'pre-terminate', 'post-terminate'].sort(),
  );
  const { upload } = receiver.printed.find(({ type }) => type === 'pre-finish');
  expect(upload.MetaData).toEqual({ filename: 'a.txt', creation_time: expect.any(String) });
});

test('it keeps an upload from being deleted', async () => {
  const path = await user.create(3, named('kept'));
  expect((await user.tus('DELETE', path)).status).toBe(409);
});

test('its own id cannot be honoured, which is said', async () => {
  const refused = await user.tus('POST', '/uploads', { 'Upload-Length': '3', ...named('prefixed') });
  expect([refused.status, await refused.text()]).toEqual([502, expect.stringContaining('ChangeFileInfo.ID')]);
});
