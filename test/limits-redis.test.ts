import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { Redis } from 'ioredis';
import { closeBarrier } from './support/barrier.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { type RedisProcess, startRedis } from './support/redis.js';
import { until } from './support/until.js';

/*
 * Two servers: with Redis they count together. While it is away each counts for itself, and nobody notices more than
 * that.
 */

const LIMIT = 6;

const ENV = {
  TRUST_PROXY: 'loopback',
  RATE_LIMIT_UPLOADS: `${LIMIT}/1h`,
  RATE_LIMIT_STATUS: `${LIMIT}/1h`,
  RATE_LIMIT_AUTH: `${LIMIT}/1h`,
  // Some tests send requests without a pause, all from one address.
  RATE_LIMIT_GLOBAL: '1000000/1m',
};

const SERVERS: Part[] = ['server', 'server-2'];

let redis: RedisProcess;
let line: Line;
let processes: Processes;

beforeAll(async () => {
  redis = await startRedis();
  line = await openLine(redis.url);
  processes = await startProcesses({ ...ENV, REDIS_URL: line.url }, SERVERS);
});

afterAll(async () => {
  await processes?.close();
  await line?.close();
  await redis?.close();
});

let addresses = 0;
const newAddress = () => `198.51.100.${++addresses}`;

/** The same user on each server. */
const everywhere = (user: TestUser) => SERVERS.map((part) => user.at(() => processes.urlOf(part)));

/** Milliseconds of the answer that has taken longest since a scene began. */
let slowest = 0;

async function timed<T>(answer: Promise<T>): Promise<T> {
  const began = performance.now();
  const given = await answer;
  slowest = Math.max(slowest, performance.now() - began);
  return given;
}

const newUser = () => timed(registerUser(() => processes.url, { 'X-Forwarded-For': newAddress() }));

/** So long a server waits for Redis. Then it counts for itself for a second, as it is meant to. */
const ANSWER_MS = 250;

/**
 * Plays a scene in which the servers must count together. If it goes wrong and one of its answers took so long that a
 * server may have counted for itself, it says nothing, and others play it anew; if all were quick it is wrong.
 */
async function together(scene: () => Promise<void>): Promise<void> {
  for (let again = 4; ; again--) {
    slowest = 0;
    try {
      return await scene();
    } catch (error) {
      if (slowest < ANSWER_MS || again === 0) throw error;
      await whenShared();
    }
  }
}

const create = async (user: TestUser) =>
  (await timed(user.tus('POST', '/uploads', { 'Upload-Length': '3' }))).status;

/** How many uploads can be created there one after the other. Anything but 201 and then 429 is an error. */
async function countAllowed(user: TestUser): Promise<number> {
  for (let allowed = 0; allowed < 100; allowed++) {
    const status = await create(user);
    if (status === 429) return allowed;
    expect(status).toBe(201);
  }
  throw new Error('nothing was refused');
}

/** How many items the limit still allows after one more request. */
async function leftAfterOne(user: TestUser): Promise<number> {
  const answer = await timed(user.fetch('/api/files'));
  expect([200, 429]).toContain(answer.status);
  return Number(/"status"; r=(\d+)/.exec(answer.headers.get('RateLimit') ?? '')?.[1]);
}

/** Waits until a user who comes to the first server has less left on the second one. */
async function whenShared(): Promise<void> {
  await until('the servers to count together', async () => {
    const [first, second] = everywhere(await newUser());
    if (!first || !second) return false;
    await leftAfterOne(first);
    return (await leftAfterOne(second)) === LIMIT - 2;
  });
}

/** With two servers more, in whose place `processes` then stands. */
async function withOthers(env: Record<string, string>, work: () => Promise<void>): Promise<void> {
  const former = processes;
  processes = await startProcesses({ ...ENV, ...env }, SERVERS);
  try {
    await work();
    // A server that ends does not wait for a Redis that is away.
    expect([await processes.stop('server'), await processes.stop('server-2')]).toEqual([0, 0]);
  } finally {
    await processes.close();
    processes = former;
  }
}

async function ask<T>(work: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(redis.url);
  try {
    return await work(client);
  } finally {
    client.disconnect();
  }
}

const keysOf = (user: TestUser) => ask((client) => client.keys(`landfall:limit:*${user.id}*`));

// The test before may have stopped Redis or put it in any state.
beforeEach(whenShared);

test('with Redis servers share one count, also of requests that come at once', async () => {
  await together(async () => {
    const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
    const statuses: number[] = [];
    for (const user of [first, second, first, second, first, first, second, first])
      statuses.push(await create(user));
    expect(statuses).toEqual([201, 201, 201, 201, 201, 201, 429, 429]);

    const others = everywhere(await newUser());
    const atOnce = await Promise.all(Array.from({ length: 10 }, () => others.map(create)).flat());
    expect(atOnce.filter((status) => status === 201)).toHaveLength(LIMIT);
    expect(atOnce.filter((status) => status === 429)).toHaveLength(20 - LIMIT);
  });
});

test('in Redis every key expires and has our prefix, and no key tells an e-mail address', async () => {
  await together(async () => {
    const user = await newUser();
    const logIn = (part: Part, password: string) =>
      timed(
        fetch(`${processes.urlOf(part)}/api/auth/login`, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': newAddress() },
          body: JSON.stringify({ email: user.email, password }),
        }),
      ).then(({ status }) => status);
    const wrong: number[] = [];
    for (const part of [...SERVERS, ...SERVERS, ...SERVERS])
      wrong.push(await logIn(part, 'a wrong password'));
    expect(wrong).toEqual([401, 401, 401, 401, 401, 401]);
    expect([await logIn('server', 'x'.repeat(8)), await logIn('server-2', 'x'.repeat(8))]).toEqual([
      429, 429,
    ]);
    await create(user);
    await leftAfterOne(user);
    await ask(async (client) => {
      const keys = (await client.keys('*')).filter((key) => !key.startsWith('landfall:processing:'));
      const names = keys.map((key) => /^landfall:limit:([\w-]+):\d+:(address|user|account):/.exec(key)?.[1]);
      expect(new Set(names)).toEqual(new Set(['global', 'auth', 'auth-account', 'uploads', 'status']));
      for (const key of keys) expect(await client.pttl(key)).toBeGreaterThan(0);
      expect(keys.join().toLowerCase()).not.toContain(user.email.split('@')[0]);
      expect(keys.join().toLowerCase()).not.toContain('example');
    });
  });
});

test('taking an attempt off a count that has ended leaves no key without an expiry', async () => {
  await together(async () => {
    const user = await newUser();
    const barrier = await closeBarrier(
      processes.database,
      'INSERT ON sessions',
      `NEW.user_id = '${user.id}'`,
    );
    const keys = () => ask((client) => client.keys('landfall:limit:*'));
    await ask((client) => client.flushdb());
    const answer = fetch(`${processes.url}/api/auth/login`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': newAddress() },
      body: JSON.stringify({ email: user.email, password: PASSWORD }),
    });
    try {
      await timed(barrier.reached());
      expect((await keys()).some((key) => key.includes('auth-account'))).toBe(true);
      await ask((client) => client.flushdb());
    } finally {
      await barrier.open();
    }
    expect((await answer).status).toBe(200);
    // This request reaches Redis after the command whose effect is checked.
    await create(user);
    expect((await keys()).filter((key) => key.includes(':auth'))).toEqual([]);
  });
});

test('a key that has lost its expiry does not shut a user out for ever', async () => {
  await together(async () => {
    const user = await newUser();
    expect(await countAllowed(user)).toBe(LIMIT);
    const [key = ''] = await keysOf(user);
    await ask((client) => client.persist(key));
    expect(await create(user)).toBe(201);
    expect(await ask((client) => client.pttl(key))).toBeGreaterThan(0);
  });
});

test('without Redis each server counts for itself', async () => {
  await withOthers({}, async () => {
    const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
    expect([await countAllowed(first), await countAllowed(second)]).toEqual([LIMIT, LIMIT]);
  });
});

test('while Redis is away each server counts for itself, and together again when it is back, empty', async () => {
  await together(async () => {
    const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
    expect([await create(first), await create(second)]).toEqual([201, 201]);
    await redis.stop();
    try {
      expect([await countAllowed(first), await countAllowed(second)]).toEqual([LIMIT, LIMIT]);
    } finally {
      await redis.start();
    }
  });
  await whenShared();
  await together(async () => {
    const after = everywhere(await newUser()) as [TestUser, TestUser];
    expect(await countAllowed(after[0])).toBe(LIMIT);
    expect(await countAllowed(after[1])).toBe(0);
  });
});

test('requests go on while Redis dies and comes back under them', async () => {
  const users = everywhere(await newUser());
  let over = false;
  const statuses = new Set<number>();
  const asking = users.map(async (user) => {
    while (!over) statuses.add((await user.fetch('/api/files')).status);
  });
  try {
    for (let times = 0; times < 3; times++) {
      await redis.stop();
      await redis.start();
      await whenShared();
    }
  } finally {
    over = true;
  }
  await Promise.all(asking);
  expect([...statuses].sort()).toEqual([200, 429]);
});

test('a Redis that forgets its scripts is told them again', async () => {
  await together(async () => {
    const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
    expect(await create(first)).toBe(201);
    await ask((client) => client.script('FLUSH'));
    expect([await countAllowed(second), await countAllowed(first)]).toEqual([LIMIT - 1, 0]);
  });
});

test('servers that start while Redis is away count in it when it comes', async () => {
  await redis.stop();
  await withOthers({ REDIS_URL: redis.url }, async () => {
    const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
    expect([await countAllowed(first), await countAllowed(second)]).toEqual([LIMIT, LIMIT]);
    await redis.start();
    await whenShared();
  });
});

test('a Redis that stands still holds no request up', async () => {
  const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
  line.freeze();
  // This is long before the servers find out that the connection is dead.
  for (const user of [first, second]) {
    const answer = await user.fetch('/api/files', { signal: AbortSignal.timeout(4000) });
    expect(answer.status).toBe(200);
  }
  expect([await countAllowed(first), await countAllowed(second)]).toEqual([LIMIT, LIMIT]);
  line.thaw();
  await whenShared();
});

test('a Redis that is full holds no request up', async () => {
  await ask((client) => client.config('SET', 'maxmemory', '1'));
  const [first, second] = everywhere(await newUser()) as [TestUser, TestUser];
  expect([await countAllowed(first), await countAllowed(second)]).toEqual([LIMIT, LIMIT]);
  await ask((client) => client.config('SET', 'maxmemory', '0'));
  await whenShared();
});

interface Line {
  url: string;
  freeze(): void;
  thaw(): void;
  close(): Promise<void>;
}

/** A way to Redis on which bytes can stand still, while the connection stays. */
async function openLine(url: string): Promise<Line> {
  const sockets = new Set<Socket>();
  const target = new URL(url);
  const server = createServer((near) => {
    const far = connect(Number(target.port), target.hostname);
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(socket);
          other.destroy();
        });
      socket.pipe(other);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  let frozen = false;
  server.on('connection', (socket) => frozen && socket.pause());
  return {
    url: `redis://127.0.0.1:${port}`,
    freeze() {
      frozen = true;
      for (const socket of sockets) socket.pause();
    },
    thaw() {
      frozen = false;
      for (const socket of sockets) socket.resume();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
