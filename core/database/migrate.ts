import type pg from 'pg';
import { connectOnce } from './connect.js';
import { openDatabase } from './data-source.js';

/** Key of the advisory lock ("land" in ASCII). Processes that start together migrate one after the other. */
const MIGRATION_LOCK = 0x6c616e64;

/**
 * Migrates our tables, and then those of others. Many processes may call it at once: one migrates, the others wait and
 * then find nothing to do.
 * @param others called one after the other with a connection
 */
export async function migrate(
  databaseUrl: string,
  others: ((client: pg.Client) => Promise<void>)[],
): Promise<void> {
  const lock = await connectOnce(databaseUrl);
  try {
    await lock.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const database = await openDatabase(databaseUrl, 'landfall migrate');
    try {
      await database.runMigrations({ transaction: 'each' });
    } finally {
      await database.destroy();
    }
    for (const migrateOther of others) await migrateOther(lock);
  } finally {
    await lock.end();
  }
}
