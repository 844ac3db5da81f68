import { loadConfig } from '../core/config.js';
import { registerUser, type TestUser } from './support/client.js';
import { expectProblem, FORM_TYPE, filePart, form, post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';

/* A disk with less room than its reserve. One that fills up is in faults/full-disk.test.ts. */

let processes: Processes;
/** The user at a server with a reserve of 0. */
let user: TestUser;
/** The same user at a server whose reserve exceeds any disk. */
let refused: TestUser;

beforeAll(async () => {
  processes = await startProcesses({ LOG_LEVEL: 'warn', DISK_RESERVE: '0' }, ['server']);
  await processes.start('server-2', { DISK_RESERVE: '1000000TiB' });
  user = await registerUser(() => processes.url);
  refused = user.at(() => processes.urlOf('server-2'));
});
afterAll(() => processes?.close());

const countUploads = async () =>
  (await processes.database.query('SELECT count(*)::integer AS count FROM uploads')).rows[0].count;

async function begin(length: number | null): Promise<string> {
  const path = await user.create(length);
  expect((await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc')).status).toBe(204);
  return path;
}

test('no upload begins, in any protocol', async () => {
  const before = await countUploads();
  expect((await refused.tus('POST', '/uploads', { 'Upload-Length': '6' })).status).toBe(507);
  await expectProblem(await post(refused, 'abc'), 507, 'storage_full');
  const files = form(filePart('a.txt', 'abc'));
  await expectProblem(await post(refused, files, { 'Content-Type': FORM_TYPE }), 507, 'storage_full');
  expect(await countUploads()).toBe(before);
});

test.each([
  ['a length', 12 * 1024 ** 2],
  ['no length', null],
])('an upload of %s does not go on, keeps its bytes, and can be ended', async (_name, length) => {
  const path = await begin(length);
  const rest = new Uint8Array(12 * 1024 ** 2 - 3);
  expect((await refused.tus('PATCH', path, { 'Upload-Offset': '3' }, rest)).status).toBe(507);
  expect((await refused.tus('HEAD', path)).headers.get('Upload-Offset')).toBe('3');
  expect((await refused.tus('DELETE', path)).status).toBe(204);
});

test('the server stays ready, and warns in /health/ready and once in its log', async () => {
  const ready = async (url: string) => {
    const answer = await fetch(`${url}/health/ready`);
    return [answer.status, await answer.json()];
  };
  expect(await ready(processes.url)).toEqual([200, { status: 'ok' }]);
  expect(await ready(processes.urlOf('server-2'))).toEqual([
    200,
    { status: 'ok', warnings: ['storage_full'] },
  ]);
  expect(processes.logOf('server')).not.toMatch('reserveBytes');
  expect(processes.logOf('server-2').match(/"reserveBytes"/g)).toHaveLength(1);
});

test('the reserve is a number of bytes', () => {
  expect(loadConfig({ DISK_RESERVE: '10GiB' }).diskReserve).toBe(10 * 1024 ** 3);
  expect(loadConfig({}).diskReserve).toBeUndefined();
});
