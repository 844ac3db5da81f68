// PostgreSQL for tests: TEST_DATABASE_URL, else the embedded one in a temporary folder, in memory if possible. A
// migrated database becomes the template that each suite copies.
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../../../dist/core/database/embedded/postgres.js';
import { migrate } from '../../../dist/core/database/migrate.js';
import { migrateQueue } from '../../../dist/core/queue/queue.js';
import { fastFolder } from './memory.js';

const TEMPLATE = 'landfall_template';

/** @returns {Promise<import('./services.js').Started>} */
export async function startPostgres() {
  const { url, stop } = process.env.TEST_DATABASE_URL
    ? { url: process.env.TEST_DATABASE_URL, stop: async () => {} }
    : await startOwn();
  try {
    if (!process.env.TEST_DATABASE_URL) await spareDisk(url);
    await createTemplate(url);
  } catch (error) {
    await stop();
    throw error;
  }
  return { env: { TEST_DATABASE_URL: url, TEST_TEMPLATE_DATABASE: TEMPLATE }, stop };
}

async function startOwn() {
  const folder = await mkdtemp(join(await fastFolder(), 'landfall-postgres-'));
  const remove = (/** @type {string} */ path) => rm(path, { recursive: true, force: true });
  try {
    // As root PostgreSQL runs as another user, who must be able to pass.
    await chmod(folder, 0o711);
    const postgres = await startEmbeddedPostgres({ dataDir: folder });
    const stop = async () => {
      await postgres.stop();
      await remove(postgres.location);
      await remove(folder);
    };
    return { url: postgres.url, stop };
  } catch (error) {
    await remove(folder);
    throw error;
  }
}

/**
 * Lets PostgreSQL not wait for the disk, and take less of it. Its data need not survive a crash of the machine; a crash
 * of PostgreSQL itself loses nothing.
 * @param {string} url
 */
async function spareDisk(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query('ALTER SYSTEM SET fsync = off');
  await client.query('ALTER SYSTEM SET full_page_writes = off');
  await client.query(`ALTER SYSTEM SET max_wal_size = '256MB'`);
  await client.query('SELECT pg_reload_conf()');
  await client.end();
}

/** @param {string} url */
async function createTemplate(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`DROP DATABASE IF EXISTS ${TEMPLATE} WITH (FORCE)`);
  await client.query(`CREATE DATABASE ${TEMPLATE}`);
  await client.end();
  const template = new URL(url);
  template.pathname = TEMPLATE;
  await migrate(template.href, [migrateQueue]);
}
