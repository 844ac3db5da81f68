import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../core/database/embedded/postgres.js';
import { type Measured, startScript } from './programs.js';
import { register } from './standalone.js';

/** A server and workers of their own on one PostgreSQL, with the bytes in a folder. */
export interface WithWorkers {
  url: string;
  headers: Record<string, string>;
  workers: Measured[];
  /** Kills a worker, and starts another in its place. */
  replace(index: number): Promise<void>;
  stop(): Promise<void>;
}

/** @param count of workers @param concurrency files that each processes at a time */
export async function startWithWorkers(count: number, concurrency: number): Promise<WithWorkers> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-bench-'));
  // If root starts it, PostgreSQL runs as another user, and that user must be able to enter the folder.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({ dataDir: folder });
  const env = {
    HOST: '127.0.0.1',
    DATABASE_URL: postgres.url,
    DATA_DIR: folder,
    DATA_DIR_SHARED: 'true',
    JWT_SECRET: randomBytes(32).toString('hex'),
    ACCESS_TOKEN_MINUTES: '1440',
    WORKER_CONCURRENCY: `${concurrency}`,
  };
  const workers: Measured[] = [];
  let server: Measured | undefined;
  const startOne = () => startScript('../worker/main.js', env, /working/);
  const stop = async () => {
    await Promise.all([...workers, ...(server ? [server] : [])].map((child) => child.stop()));
    await postgres.stop();
    await rm(postgres.location, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  };
  try {
    server = await startScript('../server/main.js', env);
    while (workers.length < count) workers.push(await startOne());
    return {
      url: server.url,
      headers: { Authorization: `Bearer ${await register(server.url)}` },
      workers,
      async replace(index) {
        const old = workers[index];
        if (!old) return;
        process.kill(old.pid, 'SIGKILL');
        await old.stop();
        workers[index] = await startOne();
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
