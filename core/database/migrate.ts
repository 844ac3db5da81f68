import { migrateQueue } from '../queue/queue.js';
import { connectOnce } from './connect.js';
import { openDatabase } from './data-source.js';

/** Key of the advisory lock ("land" in ASCII). Processes that start together migrate one after the other. */
const MIGRATION_LOCK = 0x6c616e64;

/**
 * Migrates our tables and those of the queue. Many processes may call it at once: one migrates, the others wait and
 * then find nothing to do.
 */
export async function migrate(databaseUrl: string): Promise<void> {
  const lock = await connectOnce(databaseUrl);
  try {
    await lock.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const database = await openDatabase(databaseUrl, 'landfall migrate');
    try {
      await database.runMigrations({ transaction: 'each' });
    } finally {
      await database.destroy();
    }
    await migrateQueue(lock);
  } finally {
    await lock.end();
  }
}
