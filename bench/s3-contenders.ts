import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../core/database/embedded/postgres.js';
import { createBucket, findFreePort, type Store, sumRequests } from './s3-stores.js';
import { cpuSeconds, type Measured, peakMemory, register, resetPeakMemory, startScript } from './system.js';
import type { TusServer } from './tus-client.js';

/*
 * The contenders run before the store: Landfall, stock (@tus/server over @tus/s3-store) and a bare pipe. Each
 * has a process and a bucket of its own, and all have the same client.
 */

export interface Contender extends Measured, TusServer {
  /** The contender's own bucket, named after it. */
  bucket: string;
}

type Starters = Record<string, (store: Store) => Promise<Contender>>;

/** Starts the contenders, and stops them when `work` is done or when one of them does not start. */
export async function withContenders<S extends Starters, T>(
  store: Store,
  starters: S,
  work: (contenders: { [Name in keyof S]: Awaited<ReturnType<S[Name]>> }) => Promise<T>,
): Promise<T> {
  const started: [string, Contender][] = [];
  try {
    for (const [name, start] of Object.entries(starters)) started.push([name, await start(store)]);
    return await work(Object.fromEntries(started) as Parameters<typeof work>[0]);
  } finally {
    for (const [, contender] of started) await contender.stop();
  }
}

/** The costs of one run. */
export interface Run {
  seconds: number;
  /** CPU seconds of the server process. */
  cpu: number;
  /** Peak memory in bytes. */
  memory: number;
  /** NaN on a store that does not count. */
  requests: number;
}

/** Undefined where there is no redis-server: the queue is then in PostgreSQL. */
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

export function startLandfallWithWorker(store: Store): Promise<Contender> {
  return startOnPostgres(store, true);
}

async function startOnPostgres(store: Store, withWorker: boolean): Promise<Contender> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-bench-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({ dataDir: folder });
  const running: Measured[] = [];
  const stop = async () => {
    for (const child of running.reverse()) await child.stop();
    await postgres.stop();
    await rm(postgres.location, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  };
  // PostgreSQL runs in a session of its own, so it would outlive the bench without this.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void stop().finally(() => process.exit(1)));
  }
  const bucket = 'landfall';
  const redis = await startRedis();
  if (redis) running.push(redis);
  const env = {
    // `npm run start:server` and the image set the same value.
    MALLOC_TRIM_THRESHOLD_: '33554432',
    HOST: '127.0.0.1',
    DATABASE_URL: postgres.url,
    ...(redis ? { REDIS_URL: redis.url } : {}),
    DATA_DIR: folder,
    JWT_SECRET: randomBytes(32).toString('hex'),
    // The token must outlive the bench.
    ACCESS_TOKEN_MINUTES: '1440',
    S3_BUCKET: bucket,
    // Each start has a database of its own and so is an installation of its own, which needs a prefix of its
    // own.
    S3_PREFIX: randomBytes(4).toString('hex'),
    S3_ENDPOINT: store.endpoint,
    S3_ACCESS_KEY_ID: store.accessKeyId,
    S3_SECRET_ACCESS_KEY: store.secretAccessKey,
  };
  try {
    const server = await startScript('../server/main.js', env);
    running.push(server);
    if (withWorker) running.push(await startScript('../worker/main.js', env, /working/));
    const headers = { Authorization: `Bearer ${await register(server.url)}` };
    return { ...server, bucket, headers, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Stock. Its temporary files are in `folder`. */
export async function startStock(store: Store): Promise<Contender & { folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-bench-stock-'));
  const checksums = store.takeCounts ? {} : { STOCK_CHECKSUMS: 'WHEN_REQUIRED' };
  const stock = await startOther('./stock-server.js', store, 'stock', { TMPDIR: folder, ...checksums });
  return {
    ...stock,
    folder,
    async stop() {
      await stock.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export function startBare(store: Store): Promise<Contender> {
  return startOther('./bare-s3.js', store, 'bare', {});
}

async function startOther(
  script: string,
  store: Store,
  bucket: string,
  env: Record<string, string>,
): Promise<Contender> {
  await createBucket(store, bucket);
  const server = await startScript(script, {
    S3_ENDPOINT: store.endpoint,
    S3_BUCKET: bucket,
    S3_ACCESS_KEY_ID: store.accessKeyId,
    S3_SECRET_ACCESS_KEY: store.secretAccessKey,
    ...env,
  });
  return { ...server, bucket, headers: {} };
}

/** Measures the server while `work` runs. @param bytes that must have become objects when it has run */
export async function measure(
  server: Contender,
  store: Store,
  bytes: number,
  work: () => Promise<unknown>,
): Promise<Run> {
  await store.takeCounts?.();
  resetPeakMemory(server.pid);
  const cpu = cpuSeconds(server.pid);
  const began = performance.now();
  await work();
  const run = { seconds: (performance.now() - began) / 1000, cpu: cpuSeconds(server.pid) - cpu };
  const counts = await store.takeCounts?.();
  if (counts && counts.stored < bytes)
    throw new Error(`${server.bucket}: only ${counts.stored} bytes arrived`);
  return { ...run, memory: peakMemory(server.pid), requests: counts ? sumRequests(counts) : NaN };
}

export type Row = Record<string, string>;

/** A row of the table: the medians of each contender, and Landfall's ratio to the others. */
export function row(what: string, values: Record<string, number>, digits = 1): Row {
  const { landfall = NaN } = values;
  const others = Object.entries(values).filter(([name]) => name !== 'landfall');
  const print = (value: number, places: number) => (Number.isNaN(value) ? '' : value.toFixed(places));
  return {
    what,
    landfall: print(landfall, digits),
    ...Object.fromEntries(others.map(([name, value]) => [name, print(value, digits)])),
    ...Object.fromEntries(others.map(([name, value]) => [`to ${name}`, print(landfall / value, 2)])),
  };
}
