import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { migrate } from '../core/database/migrate.js';
import { migrateQueue } from '../core/queue/queue.js';
import { Initial1763640000000 } from '../migrations/1763640000000-initial.js';
import { S31763650000000 } from '../migrations/1763650000000-s3.js';
import { expectBooksRight } from './support/books.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/*
 * The migration of an installation from before quotas counts the files and uploads that it has, and removes
 * the names of those that have ended.
 */

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase('template1');
});
afterAll(() => database?.drop());

/** The tables as they were before. */
async function migrateToBefore(): Promise<void> {
  const migrations = [Initial1763640000000, S31763650000000];
  const before = await new DataSource({ type: 'postgres', url: database.url, migrations }).initialize();
  await before.runMigrations({ transaction: 'each' });
  await before.destroy();
}

async function insertUser(): Promise<string> {
  const id = uuidv7();
  await database.query(`INSERT INTO users (id, email, password_hash, role) VALUES ($1, $2, '', 'user')`, [
    id,
    `${id}@example.org`,
  ]);
  return id;
}

interface OldUpload {
  status: string;
  offset: number;
  length: number | null;
}

async function insertUpload(ownerId: string, { status, offset, length }: OldUpload): Promise<string> {
  const id = uuidv7();
  await database.query(
    `INSERT INTO uploads (id, owner_id, status, "offset", length, metadata, storage_key, expires_at)
     VALUES ($1, $2, $3, $4, $5, '{"filename": "old.bin"}', $1::uuid::text, now() + interval '1 day')`,
    [id, ownerId, status, offset, length],
  );
  return id;
}

/** Inserts a file with the finished upload that it comes from. */
async function insertFile(ownerId: string, size: number, status: string, trashed = false): Promise<void> {
  const id = await insertUpload(ownerId, { status: 'finished', offset: size, length: size });
  const blobId = uuidv7();
  await database.query('INSERT INTO blobs (id, key, size, refs) VALUES ($1, $1::uuid::text, $2, 1)', [
    blobId,
    size,
  ]);
  await database.query(
    `INSERT INTO files (id, owner_id, blob_id, filename, size, status, created_at, deleted_at)
     VALUES ($1, $2, $3, 'old.bin', $4, $5, now(), CASE WHEN $6 THEN now() END)`,
    [id, ownerId, blobId, size, status, trashed],
  );
}

test('files and uploads under way count, also those of unknown length; the trash and ended uploads do not', async () => {
  await migrateToBefore();
  const [busy, tidy, none] = [await insertUser(), await insertUser(), await insertUser()];
  await insertFile(busy, 1000, 'completed');
  await insertFile(busy, 200, 'infected');
  await insertFile(busy, 30, 'failed');
  await insertFile(busy, 0, 'pending');
  await insertFile(busy, 50_000, 'completed', true);
  const known = await insertUpload(busy, { status: 'uploading', offset: 1, length: 4 });
  const deferred = await insertUpload(busy, { status: 'uploading', offset: 7, length: null });
  const untouched = await insertUpload(busy, { status: 'uploading', offset: 0, length: null });
  await insertUpload(busy, { status: 'expired', offset: 5, length: 70_000 });
  await insertUpload(busy, { status: 'terminated', offset: 5, length: null });
  await insertFile(tidy, 5 * 1024 ** 4, 'completed');
  await insertFile(none, 10, 'completed', true);

  await migrate(database.url, [migrateQueue]);

  const { rows: users } = await database.query(
    'SELECT id, used_bytes, used_files, max_bytes, max_files FROM users ORDER BY id',
  );
  const byDefault = { max_bytes: null, max_files: null };
  expect(users).toEqual([
    { id: busy, used_bytes: '1241', used_files: '7', ...byDefault },
    { id: tidy, used_bytes: String(5 * 1024 ** 4), used_files: '1', ...byDefault },
    { id: none, used_bytes: '0', used_files: '0', ...byDefault },
  ]);
  const { rows: uploads } = await database.query(
    `SELECT id, reserved_bytes FROM uploads WHERE status = 'uploading' ORDER BY id`,
  );
  expect(uploads).toEqual([
    { id: known, reserved_bytes: '4' },
    { id: deferred, reserved_bytes: '7' },
    { id: untouched, reserved_bytes: '0' },
  ]);
  await expectBooksRight(database);
  const { rows: named } = await database.query(
    `SELECT DISTINCT status, metadata ->> 'filename' AS name FROM uploads ORDER BY status`,
  );
  expect(named).toEqual([
    { status: 'expired', name: null },
    { status: 'finished', name: 'old.bin' },
    { status: 'terminated', name: null },
    { status: 'uploading', name: 'old.bin' },
  ]);
});
