import { statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { loadConfig } from '../core/config.js';
import { createLogger } from '../core/log.js';
import { openQueue } from '../core/queue/queue.js';
import { watchDiskRoom } from '../core/storage/disk-room.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { expectProblem, FORM_TYPE, filePart, form, post } from './support/plain-client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* A disk with less room than its reserve. One that fills up is in faults/full-disk.test.ts. */

const GIB = 1024 ** 3;

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

test('bytes that wait to be written count as used', async () => {
  const { bavail, bsize } = await statfs(tmpdir());
  const reserve = bavail * bsize - 4 * GIB;
  const isShortWith = (bytes: number) =>
    watchDiskRoom(tmpdir(), reserve, createLogger('silent', 'test'), { unwritten: () => bytes }).isShort();
  expect([await isShortWith(0), await isShortWith(8 * GIB)]).toEqual([false, true]);
});

test('an image whose thumbnails have no room waits without an attempt, and nothing is reserved for it', async () => {
  await processes.start('worker', { DISK_RESERVE: '1000000TiB' });
  const id = await user.upload(await makeJpeg({ width: 300, height: 200 }), { filename: 'a.jpg' });
  const countReserved = async () =>
    (await processes.database.query('SELECT count(*)::integer AS count FROM blobs WHERE refs = 0')).rows[0]
      .count;
  const queue = openQueue({
    databaseUrl: processes.database.url,
    redisUrl: undefined,
    attempts: 3,
    backoffMs: 20,
    log: createLogger('silent', 'test'),
  });
  try {
    await until('it to wait', async () => {
      const job = await queue.bull.getJob(`${id}-1`);
      return (await job?.isDelayed()) && (await user.get(`/api/files/${id}`)).steps.metadata;
    });
    expect(await user.get(`/api/files/${id}`)).toMatchObject({
      status: 'processing',
      attempts: 1,
      error: null,
    });
    expect(await countReserved()).toBe(0);
    await processes.stop('worker');
    await processes.start('worker', { DISK_RESERVE: '0' });
    await queue.wake({ fileId: id, run: 1 });
    expect(await user.settled(id)).toMatchObject({
      status: 'completed',
      attempts: 1,
      warnings: [],
      steps: { thumbnails: { state: 'done' } },
    });
  } finally {
    await queue.close();
  }
});
