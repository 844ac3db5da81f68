import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import { connectOnce } from './connect.js';
import { openDatabase } from './data-source.js';
import { isConflict } from './outage.js';

/** Key of the advisory lock ("land" in ASCII). Processes that start together migrate one after the other. */
const MIGRATION_LOCK = 0x6c616e64;

/**
 * How long a migration waits for the lock of a table. Everybody else who wants the table waits behind it: servers of the
 * version before must be able to go on while a long transaction, for example a backup, holds the table.
 */
const LOCK_MS = 1_000;

/** Pause before the next attempt. Requests that waited behind the last one are answered meanwhile. */
const PAUSE_MS = 2_000;

/** Then the start fails, and says why. */
const GIVE_UP_MS = 10 * 60_000;

/**
 * Migrates our tables, and then those of others. Many processes may call it at once: one migrates, the others wait and
 * then find nothing to do. A migration that does not get a lock in time is tried again.
 * @param others called one after the other with a connection; each must leave no transaction open when it fails
 */
export async function migrate(
  databaseUrl: string,
  others: ((client: pg.Client) => Promise<void>)[],
): Promise<void> {
  const client = await connectOnce(databaseUrl);
  try {
    await client.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await client.query(`SET lock_timeout = ${LOCK_MS}`);
    const database = await openDatabase(databaseUrl, 'landfall migrate', { limits: { lock: LOCK_MS } });
    try {
      await retryConflicts(() => database.runMigrations({ transaction: 'each' }));
    } finally {
      await database.destroy();
    }
    for (const migrateOther of others) await retryConflicts(() => migrateOther(client));
  } finally {
    await client.end();
  }
}

async function retryConflicts(work: () => Promise<unknown>): Promise<void> {
  for (const end = performance.now() + GIVE_UP_MS; ; await pause(PAUSE_MS)) {
    try {
      await work();
      return;
    } catch (error) {
      if (!isConflict(error) || performance.now() > end) throw error;
    }
  }
}
