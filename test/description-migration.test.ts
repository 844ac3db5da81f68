import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { UNLIMITED } from '../core/config.js';
import { openDatabase } from '../core/database/data-source.js';
import { migrate } from '../core/database/migrate.js';
import { insertFile } from '../core/files/insert.js';
import { migrateQueue } from '../core/queue/queue.js';
import { createUpload } from '../core/uploads/create.js';
import type { Metadata } from '../core/uploads/description.js';
import { Initial1763640000000 } from '../migrations/1763640000000-initial.js';
import { S31763650000000 } from '../migrations/1763650000000-s3.js';
import { People1763700000000 } from '../migrations/1763700000000-people.js';
import { Forget1763710000000 } from '../migrations/1763710000000-forget.js';
import { CountedAttempts1763800000001 } from '../migrations/1763800000001-counted-attempts.js';
import { Endings1763800000003 } from '../migrations/1763800000003-endings.js';
import { Passes1763800000004 } from '../migrations/1763800000004-passes.js';
import { Description1763800000005 } from '../migrations/1763800000005-description.js';
import { Eta1763800000006 } from '../migrations/1763800000006-eta.js';
import { EventInbox1763900000000 } from '../migrations/1763900000000-event-inbox.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/*
 * The migration that gives uploads their description in columns: uploads under way get theirs, and so do the uploads
 * of processes of the older version that are still running. They are described as this version describes its own.
 */

const HASH = 'AB'.repeat(32);

const CASES: [metadata: object, filename: string | null, type: string | null, sha256: string | null][] = [
  [{}, null, null, null],
  [{ filename: 'a.txt', name: 'b.txt', filetype: 'text/plain', type: 'text/x' }, 'a.txt', 'text/plain', null],
  [{ filename: '', name: 'b.txt', filetype: '', type: 'text/x' }, 'b.txt', 'text/x', null],
  [{ filename: null, name: null, filetype: null, type: 'a photo' }, null, null, null],
  [{ name: 'c.txt', type: `text/${'x'.repeat(128)}`, sha256: HASH }, 'c.txt', null, HASH.toLowerCase()],
  [{ filetype: 'text/plain; charset=utf-8', sha256: '' }, null, 'text/plain; charset=utf-8', null],
];

let tables: TestDatabase;
let database: DataSource;
let ownerId: string;
/** Uploads from before the migration, one of each case; with all their bytes. */
let before: string[];
let finished: string;

beforeAll(async () => {
  tables = await createDatabase('template1');
  await migrateToBefore();
  ownerId = uuidv7();
  await tables.query(
    `INSERT INTO users (id, email, password_hash, role) VALUES ($1, 'a@example.org', '', 'user')`,
    [ownerId],
  );
  before = [];
  for (const [metadata] of CASES) before.push(await insertAsBefore(metadata));
  finished = await insertAsBefore({ filename: 'done.txt' });
  await tables.query(`UPDATE uploads SET status = 'finished', finished_at = now() WHERE id = $1`, [finished]);
  await tables.query(
    `INSERT INTO blobs (id, key, size, refs) SELECT id, object_key, 3, 1 FROM uploads WHERE id = $1`,
    [finished],
  );
  await migrate(tables.url, [migrateQueue]);
  database = await openDatabase(tables.url, 'test');
});

afterAll(async () => {
  await database?.destroy();
  await tables?.drop();
});

async function migrateToBefore(): Promise<void> {
  const migrations = [
    ...[Initial1763640000000, S31763650000000, People1763700000000, Forget1763710000000],
    ...[CountedAttempts1763800000001, Endings1763800000003, Passes1763800000004, Description1763800000005],
    ...[Eta1763800000006, EventInbox1763900000000],
  ];
  const source = await new DataSource({ type: 'postgres', url: tables.url, migrations }).initialize();
  await source.runMigrations({ transaction: 'each' });
  await source.destroy();
}

/** Inserts an upload that has all its bytes and its object, as the older version does. */
async function insertAsBefore(metadata: object): Promise<string> {
  const id = uuidv7();
  await tables.query(
    `INSERT INTO uploads (id, owner_id, status, "offset", length, metadata, storage_key, object_key, expires_at,
                          reserved_bytes)
     VALUES ($1, $2, 'uploading', 3, 3, $3, $1::uuid::text, $1::uuid::text, now() + interval '1 day', 3)`,
    [id, ownerId, JSON.stringify(metadata)],
  );
  return id;
}

async function expectFile(id: string, index: number): Promise<void> {
  const [, filename, declaredType, expectedSha256] = CASES[index] ?? [];
  const file = await insertFile(database.manager, id, undefined);
  expect(file).toMatchObject({ filename: filename ?? id, declaredType, expectedSha256, size: 3 });
  const { rows } = await tables.query('SELECT key, objects, size, refs FROM blobs WHERE id = $1', [
    file?.blobId,
  ]);
  expect(rows).toEqual([{ key: id, objects: null, size: '3', refs: 1 }]);
}

test.each(CASES.map(([metadata], index) => [metadata, index] as const))(
  'an upload with %j becomes the same file as before',
  async (_metadata, index) => expectFile(before[index] ?? '', index),
);

test.each(CASES.map(([metadata], index) => [metadata, index] as const))(
  'so does one with %j that a process of the older version has created meanwhile',
  async (metadata, index) => expectFile(await insertAsBefore(metadata), index),
);

test.each(CASES.map(([metadata], index) => [metadata, index] as const))(
  'so does one with %j that this version creates',
  async (metadata, index) => {
    const deps = {
      ...{ database, storage: {}, uploadExpiryHours: 24 },
      quota: { bytes: UNLIMITED, files: UNLIMITED },
      maxUploadSize: Number.MAX_SAFE_INTEGER,
      maxSizeByType: [],
    };
    const { id } = await createUpload(deps, {
      ...{ id: uuidv7(), ownerId, length: 3, actor: {}, leaseHolder: null },
      metadata: metadata as Metadata,
    });
    await tables.query('UPDATE uploads SET "offset" = 3, object_key = $1::uuid::text WHERE id = $1', [id]);
    await expectFile(id, index);
  },
);

test('an upload that such a process ends is forgotten, and only this one', async () => {
  const [ended, other] = [await insertAsBefore({ filename: 'a' }), await insertAsBefore({ filename: 'b' })];
  await tables.query(`UPDATE uploads SET status = 'terminated', metadata = '{}' WHERE id = $1`, [ended]);
  await tables.query(`UPDATE uploads SET metadata = '{}' WHERE id = $1`, [other]);
  const { rows } = await tables.query('SELECT id, filename FROM uploads WHERE id IN ($1, $2) ORDER BY id', [
    ended,
    other,
  ]);
  expect(rows).toEqual([
    { id: ended, filename: null },
    { id: other, filename: 'b' },
  ]);
});

test('all uploads are of the kind that becomes a file; no other kind does', async () => {
  const { rows } = await tables.query('SELECT DISTINCT kind FROM uploads');
  expect(rows).toEqual([{ kind: 'file' }]);
  await expect(tables.query(`UPDATE uploads SET kind = 'other'`)).rejects.toMatchObject({
    constraint: 'uploads_kind_check',
  });
  const id = await insertAsBefore({ filename: 'part' });
  for (const kind of ['partial', 'final']) {
    await tables.query('UPDATE uploads SET kind = $2 WHERE id = $1', [id, kind]);
    expect(await insertFile(database.manager, id, undefined)).toBeUndefined();
  }
});

test('a blob from before the migration is still the one object that its key names', async () => {
  const { rows } = await tables.query('SELECT key, objects FROM blobs WHERE id = $1', [finished]);
  expect(rows).toEqual([{ key: finished, objects: null }]);
});
