import { registerUser, type TestUser } from './support/client.js';
import { scrape } from './support/metrics.js';
import { type PostgresProxy, startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type RedisProcess, startRedis } from './support/redis.js';
import { createBucket, type TestBucket } from './support/s3.js';
import { type S3Proxy, startS3Proxy } from './support/s3-proxy.js';
import { until } from './support/until.js';

/* The health of a server whose PostgreSQL, Redis and S3 go away and come back, and its figures for admins. */

const TOKEN = 'a-token-of-the-test-suite';

let wire: PostgresProxy;
let redis: RedisProcess;
let bucket: TestBucket;
let s3: S3Proxy;
let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  [wire, redis, bucket] = await Promise.all([startPostgresProxy(), startRedis(), createBucket()]);
  s3 = await startS3Proxy(bucket.env.S3_ENDPOINT);
  const env = { ...bucket.env, S3_ENDPOINT: s3.url, REDIS_URL: redis.url, METRICS_TOKEN: TOKEN };
  processes = await startProcesses(env, ['server', 'worker'], wire.reach);
  admin = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await Promise.all([wire?.close(), redis?.close(), s3?.close()]);
  await bucket?.drop();
});

const statusOf = async (path: string) => (await fetch(`${processes.url}${path}`)).status;
/** The answer, whose status is 503 exactly if the server is not ready. */
async function detailed() {
  const answer = await admin.fetch('/health/detailed');
  const health = await answer.json();
  expect(answer.status).toBe(health.status === 'not_ready' ? 503 : 200);
  return health;
}

/** The state of each dependency in /health/detailed. */
async function states(): Promise<Record<string, string>> {
  const { dependencies } = await detailed();
  return Object.fromEntries(
    dependencies.map((one: { name: string; state: string }) => [one.name, one.state]),
  );
}

async function up(): Promise<Record<string, number>> {
  const found = await scrape(processes.url, TOKEN);
  return Object.fromEntries(
    ['database', 'storage', 'queue', 'redis'].map((dependency) => [
      dependency,
      found.sum('landfall_dependency_up', { dependency }),
    ]),
  );
}

const ALL_UP = { database: 'up', storage: 'up', queue: 'up', redis: 'up' };

test('an admin sees each dependency, the processes, the machine and the versions', async () => {
  await until('Redis to be connected', async () => (await detailed()).status === 'ok');
  const answer = await detailed();
  const names = answer.dependencies.map(({ name }: { name: string }) => name);
  expect(names).toEqual(['database', 'storage', 'queue', 'redis']);
  const [database, , , inRedis] = answer.dependencies;
  expect(database).toMatchObject({ state: 'up', needed: true, version: expect.stringMatching(/^\d+/) });
  expect(inRedis).toMatchObject({ needed: false, version: expect.stringMatching(/^\d+\./) });
  expect(inRedis.figures.usedMemoryBytes).toBeGreaterThan(0);
  expect(inRedis.figures).toHaveProperty('hitRate');
  expect(answer.processes).toEqual({ servers: 1, workers: 1 });
  expect(answer.disk.data.totalBytes).toBeGreaterThan(answer.disk.data.freeBytes);
  expect(answer.memory.rssBytes).toBeGreaterThan(answer.memory.heapUsedBytes);
  expect(answer.libraries).toEqual({
    sharp: expect.stringMatching(/^\d+\./),
    libvips: expect.stringMatching(/^\d+\./),
    // Tests run where it is, and where it is not.
    ffmpeg: answer.libraries.ffmpeg === null ? null : expect.stringMatching(/^\S+$/),
  });
  expect(answer.node).toBe(process.versions.node);
  // No path of the machine, no address.
  expect(JSON.stringify(answer)).not.toMatch(/127\.0\.0\.1|\/tmp|postgres:|redis:/);
});

test('a worker that ends is counted no more', async () => {
  await processes.stop('worker');
  await until('the worker to be gone', async () => (await detailed()).processes.workers === 0);
  await processes.start('worker');
  await until('the new one', async () => (await detailed()).processes.workers === 1);
});

test('without Redis the server is ready, and degraded', async () => {
  await redis.stop();
  await until('Redis to be missed', async () => {
    const { queue, redis: inRedis } = await states();
    return queue === 'down' && inRedis === 'down';
  });
  expect(await states()).toEqual({ ...ALL_UP, queue: 'down', redis: 'down' });
  expect(await detailed()).toMatchObject({ status: 'degraded' });
  expect(await statusOf('/health/ready')).toBe(200);
  expect(await up()).toEqual({ database: 1, storage: 1, queue: 0, redis: 0 });
  // The rest of the statistics does not need the queue.
  expect(await admin.get('/api/admin/stats')).toMatchObject({ jobs: null, users: { total: 1 } });
  await redis.start();
  await until('Redis to be back', async () => (await detailed()).status === 'ok');
  expect((await admin.get('/api/admin/stats')).jobs).toMatchObject({ waiting: 0, active: 0 });
});

test.each([
  ['refuses', { fail: 503 } as const],
  ['hangs', { hold: 'before' } as const],
])('while S3 %s the server is not ready, and says so within seconds', async (_, fault) => {
  const lift = s3.rule(() => true, fault);
  const began = performance.now();
  for (const path of ['/health', '/health/ready']) expect([path, await statusOf(path)]).toEqual([path, 503]);
  expect(await statusOf('/health/live')).toBe(200);
  expect(await detailed()).toMatchObject({ status: 'not_ready' });
  expect(await states()).toEqual({ ...ALL_UP, storage: 'down' });
  // Five checks of three seconds, and a loaded machine.
  expect(performance.now() - began).toBeLessThan(40_000);
  lift();
  await until('the server to be ready', async () => (await statusOf('/health/ready')) === 200);
  expect(await up()).toMatchObject({ storage: 1 });
});

test('without PostgreSQL the server is not ready, and tells the metrics that it has', async () => {
  await wire.away();
  for (const path of ['/health', '/health/ready']) expect([path, await statusOf(path)]).toEqual([path, 503]);
  expect(await statusOf('/health/live')).toBe(200);
  // Nobody can be recognised as an admin.
  expect((await admin.fetch('/health/detailed')).status).toBe(503);
  expect(await up()).toMatchObject({ database: 0, storage: 1, queue: 1 });
  const { series } = await scrape(processes.url, TOKEN);
  expect(series.some((one) => one.startsWith('landfall_http_requests_total'))).toBe(true);
  expect(series.some((one) => one.startsWith('landfall_event_reader_lag'))).toBe(false);
  await wire.back();
  await until('the server to be ready', async () => (await statusOf('/health/ready')) === 200);
  expect((await detailed()).status).toBe('ok');
});

test('the statistics of the installation are those of all its users together', async () => {
  const users = await Promise.all([registerUser(() => processes.url), registerUser(() => processes.url)]);
  const before = await admin.get('/api/admin/stats');
  expect(before.users).toEqual({ total: 3, admins: 1, disabled: 0 });
  for (const [n, user] of users.entries()) await user.settled(await user.upload(Buffer.alloc(10 + n)));
  const open = await users[0]?.create(100);
  await users[0]?.tus('PATCH', open ?? '', { 'Upload-Offset': '0' }, 'abc');
  const own = await Promise.all(users.map((user) => user.get('/api/stats')));
  const after = await admin.get('/api/admin/stats');
  expect(own.map(({ files, bytes }) => [files, bytes])).toEqual([
    [1, 10],
    [1, 11],
  ]);
  expect([after.files - before.files, after.bytes - before.bytes]).toEqual([2, 21]);
  expect(after.uploads).toEqual({
    open: before.uploads.open + 1,
    receivedBytes: before.uploads.receivedBytes + 3,
  });
  expect(after.lastDay.completed.files - before.lastDay.completed.files).toBe(2);
  expect(after.byStatus.completed.files).toBe(before.byStatus.completed.files + 2);
});
