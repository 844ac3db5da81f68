import { Redis } from 'ioredis';
import { openRedis, startRedis } from '../support/redis.js';

async function ask<T>(url: string, question: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(url, { retryStrategy: () => null });
  client.on('error', () => {});
  try {
    return await question(client);
  } finally {
    // A refused connection has nothing to end, but ioredis would wait two seconds for its end.
    if (client.status !== 'end') client.disconnect();
  }
}

test('a Redis that is killed refuses connections, and comes back empty at the same address', async () => {
  const redis = await startRedis();
  await ask(redis.url, (client) => client.set('key', 'value'));
  await redis.stop();
  await expect(ask(redis.url, (client) => client.ping())).rejects.toThrow();
  await redis.start();
  expect(await ask(redis.url, (client) => client.get('key'))).toBeNull();
  await redis.close();
});

test('each suite has a Redis of its own, which it can empty', async () => {
  const redis = await openRedis();
  const other = await startRedis();
  for (const { url } of [redis, other]) await ask(url, (client) => client.set('key', 'value'));
  await redis.flush();
  expect(await ask(redis.url, (client) => client.get('key'))).toBeNull();
  expect(await ask(other.url, (client) => client.get('key'))).toBe('value');
  await Promise.all([redis.close(), other.close()]);
});
