// Finds or starts what the tests need, runs Jest with the given arguments, and stops what it has started.
//
// PostgreSQL: TEST_DATABASE_URL, else the embedded one in a temporary folder. A migrated database becomes the
// template that each suite copies.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../dist/core/database/embedded-postgres.js';
import { migrate } from '../dist/core/database/migrate.js';

const TEMPLATE = 'landfall_template';

async function startPostgres() {
  if (process.env.TEST_DATABASE_URL) return { url: process.env.TEST_DATABASE_URL, stop: async () => {} };
  const folder = await mkdtemp(join(tmpdir(), 'landfall-postgres-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({ dataDir: folder });
  const stop = async () => {
    await postgres.stop();
    await rm(postgres.location, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  };
  return { url: postgres.url, stop };
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
  await migrate(template.href);
}

/** @param {NodeJS.ProcessEnv} env */
async function runJest(env) {
  const jest = spawn(
    process.execPath,
    [
      '--experimental-vm-modules',
      '--disable-warning=ExperimentalWarning',
      'node_modules/jest/bin/jest.js',
      ...process.argv.slice(2),
    ],
    { stdio: 'inherit', env },
  );
  // Ctrl-C reaches Jest by itself; what we started must still be stopped.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => jest.kill('SIGTERM'));
  const [code] = await once(jest, 'exit');
  return code ?? 1;
}

const postgres = await startPostgres();
try {
  await createTemplate(postgres.url);
  process.exitCode = await runJest({
    ...process.env,
    TEST_DATABASE_URL: postgres.url,
    TEST_TEMPLATE_DATABASE: TEMPLATE,
  });
} finally {
  await postgres.stop();
}
