import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { migrate } from '../core/database/migrate.js';
import { migrateQueue } from '../core/queue/queue.js';
import { Initial1763640000000 } from '../migrations/1763640000000-initial.js';
import { S31763650000000 } from '../migrations/1763650000000-s3.js';
import { hashPassword } from '../server/accounts/passwords.js';
import { PASSWORD, useAccount } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { logIn, problemOf, refresh, refreshed, sha256 } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * A database from before rotated sessions and quotas, which is migrated before the server starts.
 */

const older = `test_older_${randomBytes(6).toString('hex')}`;
const token = randomBytes(32).toString('base64url');
const userId = uuidv7();
const email = 'early@example.org';

let admin: pg.Client;
let url: string;
let processes: Processes;
let readBesideMigration: object[];

beforeAll(async () => {
  admin = new pg.Client({ connectionString: process.env.TEST_DATABASE_URL });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${older}`);
  const address = new URL(process.env.TEST_DATABASE_URL ?? '');
  address.pathname = older;
  url = address.href;

  const database = new DataSource({
    type: 'postgres',
    url,
    migrations: [Initial1763640000000, S31763650000000],
  });
  await database.initialize();
  await database.runMigrations();
  await database.query(`INSERT INTO users (id, email, password_hash, role) VALUES ($1, $2, $3, 'admin')`, [
    userId,
    email,
    await hashPassword(PASSWORD),
  ]);
  await database.query(
    `INSERT INTO sessions (id, user_id, token_hash, expires_at)
     VALUES ($1, $2, $3, now() + interval '1 day'), ($4, $2, $5, now() - interval '1 day')`,
    [uuidv7(), userId, sha256(token), uuidv7(), sha256('expired')],
  );
  await database.query(
    `INSERT INTO events (type, subject_id, owner_id, data, seq) VALUES ('upload.created', $1, $1, '{}', 1)`,
    [userId],
  );
  await database.destroy();
  await migrateBesideReader();
  processes = await startProcesses({}, ['server'], async () => url);
});

afterAll(async () => {
  await processes?.close();
  await admin?.query(`DROP DATABASE IF EXISTS ${older} WITH (FORCE)`);
  await admin?.end();
});

/** Migrates while a long transaction, as of a backup, reads a table that a migration changes. */
async function migrateBesideReader(): Promise<void> {
  const reader = new pg.Client({ connectionString: url });
  const other = new pg.Client({ connectionString: url });
  await Promise.all([reader.connect(), other.connect()]);
  try {
    await reader.query('BEGIN');
    await reader.query('SELECT FROM users');
    const migrated = migrate(url, [migrateQueue]);
    await until('a migration to wait for the table', async () => {
      const { rows } = await admin.query(
        `SELECT FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE users%'`,
        [older],
      );
      return rows.length > 0;
    });
    // The reader still holds the table: this query waits behind the migration, which must step back.
    ({ rows: readBesideMigration } = await other.query('SELECT id FROM users'));
    await reader.query('COMMIT');
    await migrated;
  } finally {
    await Promise.all([reader.end(), other.end()]);
  }
}

test('a migration that waits for a table does not keep the servers of the version before from it', () => {
  expect(readBesideMigration).toEqual([{ id: userId }]);
});

test('sessions that were open go on, and rotate from then on', async () => {
  const first = await refreshed(processes.url, token);
  expect(first.user).toEqual({ id: userId, email, role: 'admin' });
  expect(first.refreshToken).not.toBe(token);
  // The old token still works within its grace.
  expect((await refreshed(processes.url, token)).refreshToken).toBe(first.refreshToken);
  const as = useAccount(first.user, first.accessToken, () => processes.url);
  expect((await as.get('/api/me/sessions')).items).toEqual([
    expect.objectContaining({ current: true, address: expect.any(String) }),
  ]);
  expect((await as.fetch('/api/admin/users')).status).toBe(200);
  expect((await refresh(processes.url, first.refreshToken)).status).toBe(200);
});

test('an event that a process of the older version writes, without the inbox, is numbered too', async () => {
  const subject = uuidv7();
  const database = new pg.Client({ connectionString: url });
  await database.connect();
  await database.query(
    `INSERT INTO events (type, subject_id, owner_id, data) VALUES ('upload.expired', $1, $1, '{"old": true}')`,
    [subject],
  );
  // A server numbers all waiting events when it appends one itself.
  expect((await refresh(processes.url, 'unknown')).status).toBe(401);
  await logIn(processes.url, email);
  const numbered = await until('its number', async () => {
    const { rows } = await database.query('SELECT seq, data FROM events WHERE subject_id = $1', [subject]);
    return rows[0];
  });
  await database.end();
  expect(numbered).toMatchObject({ seq: expect.any(String), data: { old: true } });
});

test('a session that had expired before the migration is still expired', async () => {
  expect(await problemOf(await refresh(processes.url, 'expired'))).toEqual([401, 'unauthenticated']);
});

test('passwords still work, and the first account is still an admin’s', async () => {
  expect((await logIn(processes.url, email)).user.role).toBe('admin');
});
