import type { DataSource } from 'typeorm';
import { openDatabase } from '../core/database/data-source.js';
import { Blob } from '../core/database/entities/blob.js';
import { DatabaseAway, isConflict } from '../core/database/outage.js';
import { countChanged, execute, queryEntities, queryRows } from '../core/database/rows.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/* The functions that run handwritten SQL. */

let tables: TestDatabase;
let database: DataSource;

beforeAll(async () => {
  tables = await createDatabase();
  database = await openDatabase(tables.url, 'rows test');
});

beforeEach(async () => {
  await tables.query('TRUNCATE blobs CASCADE');
  await tables.query(
    `INSERT INTO blobs (id, key, size) SELECT gen_random_uuid(), 'key ' || n, n FROM generate_series(1, 3) AS n`,
  );
});

afterAll(async () => {
  await database?.destroy();
  await tables?.drop();
});

/** Statements of every kind, each with one row, the blob of one byte. */
const STATEMENTS = [
  `SELECT * FROM blobs WHERE size = $1`,
  `INSERT INTO blobs (id, key, size) VALUES (gen_random_uuid(), 'new', $1) RETURNING *`,
  `UPDATE blobs SET refs = refs + 1 WHERE size = $1 RETURNING *`,
  `DELETE FROM blobs WHERE size = $1 RETURNING *`,
  `WITH one AS (SELECT $1::bigint AS size) UPDATE blobs SET refs = refs + 1 FROM one WHERE blobs.size = one.size RETURNING blobs.*`,
  `-- a comment\nDELETE FROM blobs WHERE size = $1 RETURNING *`,
  `WITH gone AS (DELETE FROM blobs WHERE size = $1 RETURNING *) SELECT * FROM gone`,
];

test.each(STATEMENTS)('%s', async (sql) => {
  const within = <T>(work: (manager: DataSource['manager']) => Promise<T>) =>
    database.transaction((manager) => work(manager));
  expect(await within((manager) => queryRows(manager, sql, [1]))).toEqual([
    expect.objectContaining({ size: '1' }),
  ]);
  await tables.query('TRUNCATE blobs CASCADE');
  await tables.query(`INSERT INTO blobs (id, key, size) VALUES (gen_random_uuid(), 'key', 1)`);
  const found = await queryEntities(database, Blob, sql, [1]);
  expect(found).toEqual([expect.objectContaining({ size: 1, createdAt: expect.any(Date), doomedAt: null })]);
  expect(found[0]).toBeInstanceOf(Blob);
});

test('changed rows are counted, whatever the statement returns', async () => {
  expect(await countChanged(database, 'UPDATE blobs SET refs = 1')).toBe(3);
  expect(await countChanged(database, 'UPDATE blobs SET refs = 1 WHERE size > $1 RETURNING id', [1])).toBe(2);
  expect(await countChanged(database, 'DELETE FROM blobs WHERE size > 3')).toBe(0);
  expect(
    await countChanged(database, 'INSERT INTO blobs (id, key, size) SELECT gen_random_uuid(), 4, 4'),
  ).toBe(1);
});

test('rows that lack a column of the entity are refused', async () => {
  await expect(queryEntities(database, Blob, 'SELECT id, key, size FROM blobs')).rejects.toThrow(
    'a row of blobs without the column objects',
  );
});

test('a statement belongs to the transaction of its manager', async () => {
  const rolledBack = database.transaction(async (manager) => {
    await execute(manager, 'DELETE FROM blobs');
    expect(await queryRows(manager, 'SELECT FROM blobs')).toEqual([]);
    expect(await queryRows(database, 'SELECT FROM blobs')).toHaveLength(3);
    throw new Error('roll back');
  });
  await expect(rolledBack).rejects.toThrow('roll back');
  expect(await queryRows(database, 'SELECT FROM blobs')).toHaveLength(3);
});

test('connections go back to the pool, after failures too', async () => {
  const statements = Array.from({ length: 40 }, (_, index) =>
    queryRows(database, index % 2 ? 'SELECT 1' : 'SELECT 1 FROM missing').catch(
      (error) => error.driverError.code,
    ),
  );
  expect((await Promise.all(statements)).filter((one) => one === '42P01')).toHaveLength(20);
});

describe('a lost connection is thrown as DatabaseAway', () => {
  const cut = 'SELECT pg_terminate_backend(pg_backend_pid())';
  let fresh: DataSource;

  // The pool may give out the connection once more before it has noticed its end.
  beforeEach(async () => {
    fresh = await openDatabase(tables.url, 'rows test');
  });
  afterEach(() => fresh.destroy());

  test.each([queryRows, execute, countChanged])('by %p', async (run) => {
    await expect(run(fresh, cut)).rejects.toBeInstanceOf(DatabaseAway);
  });

  test('in a transaction, by the statement itself and by the next one', async () => {
    const next = fresh.transaction(async (manager) => {
      await expect(execute(manager, cut)).rejects.toBeInstanceOf(DatabaseAway);
      await execute(manager, 'SELECT 1');
    });
    await expect(next).rejects.toBeInstanceOf(DatabaseAway);
  });
});

test('a conflict with another transaction is thrown as one', async () => {
  const other = await tables.connect();
  await other.query('BEGIN');
  await other.query('LOCK TABLE blobs');
  const failed = database.transaction(async (manager) => {
    await execute(manager, `SET LOCAL lock_timeout = '50ms'`);
    await execute(manager, 'DELETE FROM blobs');
  });
  const error = await failed.catch((thrown: unknown) => thrown);
  expect(isConflict(error)).toBe(true);
  expect((error as Error).name).toBe('DatabaseConflict');
  await other.query('ROLLBACK');
});
