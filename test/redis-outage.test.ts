import { randomBytes } from 'node:crypto';
import { Redis } from 'ioredis';
import { expectBlobsInOrder, expectCompletedOnce, findFile } from './support/aftermath.js';
import { closeBarrier } from './support/barrier.js';
import { registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { type RedisProcess, startRedis } from './support/redis.js';
import { until } from './support/until.js';

let redis: RedisProcess;
let processes: Processes;
let user: TestUser;

async function start(parts: Part[]): Promise<void> {
  redis = await startRedis();
  processes = await startProcesses({ REDIS_URL: redis.url }, parts);
  if (parts.includes('server')) user = await registerUser(() => processes.url);
}

afterEach(async () => {
  await processes?.close();
  await redis?.close();
});

/** Makes a small image that differs from all others. */
async function makeImage(): Promise<Buffer> {
  return Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(100)]);
}

/** Uploads in two requests, both of which must succeed, with Redis or without. Returns the id. */
async function upload(content: Buffer): Promise<string> {
  const path = await user.create(content.length);
  const half = Math.floor(content.length / 2);
  for (const [offset, end] of [
    [0, half],
    [half, content.length],
  ] as const) {
    const body = content.subarray(offset, end) as BodyInit;
    const answer = await user.tus('PATCH', path, { 'Upload-Offset': String(offset) }, body);
    expect([answer.status, answer.headers.get('Upload-Offset')]).toEqual([204, String(end)]);
  }
  return path.split('/').at(-1) ?? '';
}

test('while Redis is away uploads go on; when it is back, empty, each file is processed exactly once', async () => {
  await start(['server', 'worker']);
  const pids = [processes.pid('server'), processes.pid('worker')];
  const before = await makeImage();
  await expectCompletedOnce(processes, user, await upload(before), before);

  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', `NEW.steps ? 'metadata'`);
  const running = await makeImage();
  const runningId = await upload(running);
  await barrier.reached();
  await redis.stop();
  const contents = await Promise.all([makeImage(), makeImage(), makeImage()]);
  const ids: string[] = [];
  for (const content of contents) ids.push(await upload(content));
  for (const id of ids) expect(await findFile(processes, id)).toMatchObject({ status: 'pending' });
  expect((await user.fetch('/health/ready')).status).toBe(200);

  await redis.start();
  // Redis lost the job. It is added again while its first attempt still runs.
  await until('the job that runs to be restored', async () => {
    const client = new Redis(redis.url);
    const jobs = await client.keys('landfall:processing:*-1');
    client.disconnect();
    return jobs.some((key) => key.includes(runningId));
  });
  await barrier.open();
  for (const [index, id] of ids.entries()) {
    await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0));
  }
  expect(await user.settled(runningId)).toMatchObject({ status: 'completed' });
  const after = await makeImage();
  await expectCompletedOnce(processes, user, await upload(after), after);
  expect([processes.pid('server'), processes.pid('worker')]).toEqual(pids);
  await expectBlobsInOrder(processes);
});

test('server and worker start without Redis, work once it is there, and stop when it has gone', async () => {
  await start([]);
  await redis.stop();
  await processes.start('server');
  await processes.start('worker');
  user = await registerUser(() => processes.url);
  const content = await makeImage();
  const id = await upload(content);
  await redis.start();
  await expectCompletedOnce(processes, user, id, content);
  await redis.stop();
  expect(await Promise.all([processes.stop('server'), processes.stop('worker')])).toEqual([0, 0]);
});

test('a worker that starts adds the jobs again that Redis has lost', async () => {
  await start(['server']);
  const content = await makeImage();
  const id = await upload(content);
  await redis.flush();
  await processes.start('worker');
  await expectCompletedOnce(processes, user, id, content);
});

test('another worker takes over the job of a worker that was killed in its middle', async () => {
  await start(['server', 'worker']);
  const content = await makeImage();
  const barrier = await closeBarrier(processes.database, 'UPDATE ON files', `NEW.steps ? 'metadata'`);
  const id = await upload(content);
  await barrier.reached();
  await processes.kill('worker');
  await barrier.cut();
  await processes.start('worker-2');
  await expectCompletedOnce(processes, user, id, content);
});

test('the board shows the queue that is in Redis, and answers 503 while Redis is away', async () => {
  await start(['server']);
  await upload(await makeImage());
  // The first account is the admin.
  const board = () => user.fetch('/admin/queues/api/queues');
  // On a busy machine Redis may answer too late, and then the board says 503 for once.
  const shown = await until('the board to show the queue', async () => {
    const answer = await board();
    return answer.status !== 503 && answer.json();
  });
  expect(shown.queues[0]).toMatchObject({ name: 'processing', counts: { waiting: 1 } });
  await redis.stop();
  await until('the board to be unavailable', async () => (await board()).status === 503);
});
