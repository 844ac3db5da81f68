import { join } from 'node:path';
import type { DataSource } from 'typeorm';
import type { Config } from '../../config.js';
import { ConfigError } from '../../config-error.js';
import { readOptional } from '../../data-folder.js';
import { connectOnce } from '../connect.js';
import { openDatabase } from '../data-source.js';
import { FolderInUse, type FolderLock, lockFolder } from './folder-lock.js';
import { findEmbeddedPostgres, startEmbeddedPostgres } from './postgres.js';

/**
 * Runs a command's `work` on the database of this installation: that of DATABASE_URL, or the one that `npm start` keeps
 * in the data folder. If the latter is not running, it is started for the command, and `npm start` cannot run meanwhile.
 * @param name shown in pg_stat_activity
 * @throws {ConfigError} naming DATABASE_URL or DATA_DIR when there is no such database, or it cannot be reached
 */
export async function withDatabase<T>(
  { databaseUrl, dataDir }: Pick<Config, 'databaseUrl' | 'dataDir'>,
  name: string,
  work: (database: DataSource) => Promise<T>,
): Promise<T> {
  const run = (url: string) => runOn(url, name, work);
  if (databaseUrl) return run(databaseUrl);
  // A new cluster begins with this file. A command must not create a cluster.
  if (!(await readOptional(join(dataDir, 'postgres-password')))) {
    throw new ConfigError(`DATA_DIR=${dataDir}: there is no database in this folder; or set DATABASE_URL`);
  }
  const lock = await lockFolder(dataDir).catch((error: unknown) => {
    if (error instanceof FolderInUse) return undefined;
    throw error;
  });
  if (lock) return runAlone(dataDir, lock, run);
  const url = await findEmbeddedPostgres(dataDir);
  if (!url)
    throw new ConfigError(`DATA_DIR=${dataDir}: its database is just starting or stopping: try again`);
  return run(url);
}

/** Starts PostgreSQL for `run` and stops it afterwards, also at Ctrl-C. */
async function runAlone<T>(dataDir: string, lock: FolderLock, run: (url: string) => Promise<T>): Promise<T> {
  const starting = startEmbeddedPostgres({ dataDir });
  const stop = async () => {
    await starting.then((postgres) => postgres.stop()).catch(() => {});
    await lock.release();
  };
  const onSignal = () => void stop().finally(() => process.exit(1));
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.once(signal, onSignal);
  try {
    return await run((await starting).url);
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
    await stop();
  }
}

async function runOn<T>(url: string, name: string, work: (database: DataSource) => Promise<T>): Promise<T> {
  // connectOnce() gives the best message when the database cannot be reached.
  await connectOnce(url).then((client) => client.end());
  const database = await openDatabase(url, name);
  try {
    return await work(database);
  } finally {
    await database.destroy();
  }
}
