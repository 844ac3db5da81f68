import { Redis } from 'ioredis';
import { startGuarded } from './guarded.js';
import { freePort } from './services/port.js';

export interface TestRedis {
  url: string;
  /** Removes all keys. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface RedisProcess extends TestRedis {
  /** SIGKILL, at once. Redis keeps nothing on disk, so its data is lost. */
  stop(): Promise<void>;
  /** Starts it again, empty, on the same port. */
  start(): Promise<void>;
}

/** An empty Redis for one suite: TEST_REDIS_URL, else a server of its own. */
export async function openRedis(): Promise<TestRedis> {
  if (!process.env.TEST_REDIS_URL) return startRedis();
  const url = new URL(process.env.TEST_REDIS_URL);
  // Each of Jest's workers runs one suite at a time, and has a logical database of its own.
  url.pathname = process.env.JEST_WORKER_ID ?? '1';
  await flush(url.href);
  return { url: url.href, flush: () => flush(url.href), close: () => flush(url.href) };
}

/** A Redis server of the suite's own, for those that kill it. */
export async function startRedis(): Promise<RedisProcess> {
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}`;
  let running = await launch(port);
  return {
    url,
    stop: () => running.kill(),
    async start() {
      running = await launch(port);
    },
    flush: () => flush(url),
    close: () => running.kill(),
  };
}

async function launch(port: number) {
  const options = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  const { shell, kill } = startGuarded('redis-server', options);
  let output = '';
  await new Promise<void>((resolve, reject) => {
    shell.stdout.on('data', (chunk) => {
      output += chunk;
      if (output.includes('Ready to accept connections')) resolve();
    });
    // The shell has closed its side, so only Redis holds this end open.
    shell.stdout.on('end', () => {
      shell.stdin.end();
      reject(new Error(`redis-server did not start: ${output}`));
    });
    shell.on('error', reject);
  });
  return { kill };
}

async function flush(url: string) {
  const client = new Redis(url, { retryStrategy: () => null });
  await client.flushdb();
  client.disconnect();
}
