import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../core/database/embedded/postgres.js';
import { type Measured, startScript } from './programs.js';
import type { Contender } from './s3-contenders.js';
import { findFreePort, type Store } from './s3-stores.js';
import { register } from './standalone.js';

/* Landfall as a contender before S3: the server, its PostgreSQL and Redis, and the worker where a bench needs it. */

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** Starts Redis. @returns undefined where there is no redis-server; Landfall then keeps its queue in PostgreSQL */
async function startRedis(): Promise<Measured | undefined> {
  const port = await findFreePort();
  const child = spawn('redis-server', ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '']);
  const ready = await Promise.race([
    once(child.stdout, 'data').then(() => true),
    once(child, 'error').then(() => false),
  ]);
  if (!ready) return undefined;
  const ended = once(child, 'exit');
  child.stdout.resume();
  return {
    pid: child.pid ?? 0,
    url: `redis://127.0.0.1:${port}`,
    async stop() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Landfall's server on S3, with an embedded PostgreSQL, and Redis if there is one. */
export function startLandfall(store: Store): Promise<Contender> {
  return startOnPostgres(store, false);
}

/** The same with a worker. */
export function startLandfallWithWorker(store: Store): Promise<Contender> {
  return startOnPostgres(store, true);
}

async function startOnPostgres(store: Store, withWorker: boolean): Promise<Contender> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-bench-'));
  // If root starts it, PostgreSQL runs as another user, and that user must be able to enter the folder.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({ dataDir: folder });
  const running: Measured[] = [];
  const stop = async () => {
    for (const signal of SIGNALS) process.off(signal, stopAndExit);
    for (const child of running.reverse()) await child.stop();
    await postgres.stop();
    await rm(postgres.location, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  };
  // PostgreSQL runs in a session of its own, so it would outlive the bench without this.
  const stopAndExit = () => void stop().finally(() => process.exit(1));
  for (const signal of SIGNALS) process.once(signal, stopAndExit);
  const bucket = 'landfall';
  const redis = await startRedis();
  if (redis) running.push(redis);
  const env = {
    // `npm run start:server` and the image set the same values.
    MALLOC_ARENA_MAX: '2',
    MALLOC_TRIM_THRESHOLD_: '33554432',
    UV_THREADPOOL_SIZE: '16',
    HOST: '127.0.0.1',
    DATABASE_URL: postgres.url,
    ...(redis ? { REDIS_URL: redis.url } : {}),
    DATA_DIR: folder,
    JWT_SECRET: randomBytes(32).toString('hex'),
    // The token must outlive the bench.
    ACCESS_TOKEN_MINUTES: '1440',
    S3_BUCKET: bucket,
    // Each start has a new database and so is a new installation, and two installations must not share a prefix.
    S3_PREFIX: randomBytes(4).toString('hex'),
    S3_ENDPOINT: store.endpoint,
    S3_ACCESS_KEY_ID: store.accessKeyId,
    S3_SECRET_ACCESS_KEY: store.secretAccessKey,
  };
  try {
    const server = await startScript('../server/main.js', env, undefined, ['--max-semi-space-size=4']);
    running.push(server);
    if (withWorker) running.push(await startScript('../worker/main.js', env, /working/));
    const headers = { Authorization: `Bearer ${await register(server.url)}` };
    return { ...server, bucket, headers, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
