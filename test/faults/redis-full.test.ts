import { Redis } from 'ioredis';
import { expectCompletedOnce } from '../support/aftermath.js';
import { registerUser, type TestUser } from '../support/client.js';
import { type Processes, startProcesses } from '../support/processes.js';
import { type RedisProcess, startRedis } from '../support/redis.js';
import { until } from '../support/until.js';

/* Redis has reached its memory limit and evicts nothing, so it refuses commands that add data. */

let redis: RedisProcess;
let admin: Redis;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  redis = await startRedis();
  admin = new Redis(redis.url);
  processes = await startProcesses({ REDIS_URL: redis.url });
  user = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  admin?.disconnect();
  await redis?.close();
});

async function limitMemory(bytes: number): Promise<void> {
  await admin.config('SET', 'maxmemory-policy', 'noeviction');
  await admin.config('SET', 'maxmemory', String(bytes));
}

test('uploads succeed while jobs are refused, and the files are processed when there is room again', async () => {
  const first = Buffer.from('before');
  await expectCompletedOnce(processes, user, await user.upload(first), first);

  await limitMemory(1);
  await expect(admin.set('key', 'value')).rejects.toThrow('OOM');
  const contents = Array.from({ length: 20 }, (_, index) => Buffer.from(`meanwhile ${index}`));
  const ids = await Promise.all(contents.map((content) => user.upload(content)));
  const keys = await admin.keys('landfall:processing:*-1');
  for (const id of ids) {
    expect(keys.join()).not.toContain(id);
    expect(await user.get(`/api/files/${id}/status`)).toMatchObject({ status: 'pending', error: null });
  }

  await limitMemory(0);
  for (const [index, id] of ids.entries()) {
    const file = await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0), 90);
    expect(file.attempts).toBe(1);
  }
  await until('no job to be left', async () => {
    const lists = ['wait', 'active'].map((name) => admin.llen(`landfall:processing:${name}`));
    return (await Promise.all(lists)).every((length) => length === 0);
  });
});
