import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { migrate } from '../core/database/migrate.js';
import { selectTwin } from '../core/files/duplicates.js';
import { type FileList, selectFiles } from '../core/files/list.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { countRead } from './support/plans.js';
import { storeMany } from './support/stored-files.js';

/* How PostgreSQL finds the files of a list: it must not read the files that are not in it. */

const FILES = 20_000;
const PAGE = 50;

/** A page, read twice in a plan: from the index, and by the sort or the limit above it. */
const FEW = 8 * PAGE;

let database: TestDatabase;
const ownerId = uuidv7();

beforeAll(async () => {
  database = await createDatabase();
  for (const id of [ownerId, uuidv7()]) {
    await database.query(`INSERT INTO users (id, email, role) VALUES ($1, $2, 'user')`, [id, id]);
    await storeMany(database, id, FILES);
  }
});

afterAll(() => database?.drop());

type Filter = Partial<FileList['filter']>;

function listWith(filter: Filter, order: Partial<FileList['order']> = {}): FileList {
  return {
    ownerId,
    filter: { deleted: false, ...filter },
    order: { by: 'createdAt', descending: true, ...order },
  };
}

async function read(list: FileList): Promise<{ rows: { position: string; id: string }[]; count: number }> {
  const { sql, parameters } = selectFiles(list, undefined, PAGE);
  const { rows } = await database.query(sql, parameters);
  return { rows, count: await countRead(database, sql, parameters) };
}

const hashOf = (n: number) =>
  database.query('SELECT md5($1::text) AS hash', [n]).then(({ rows }) => rows[0].hash);

describe('a filter reads the files that match', () => {
  it.each([
    ['status', { status: 'failed' }, 20],
    ['type', { type: 'application/pdf' }, 20],
    ['type of a family', { type: 'application/*' }, 20],
    ['minSize and maxSize', { minSize: 1, maxSize: 8 }, 20],
    ['maxSize', { maxSize: 8 }, 20],
    ['from', { from: new Date(Date.now() - 20_000) }, undefined],
    ['status and type', { status: 'failed', type: 'image/jpeg' }, 20],
    ['status and a common word', { status: 'failed', words: ['jpg'] }, 20],
  ] as [string, Filter, number | undefined][])('%s', async (_name, filter, found) => {
    for (const order of [{}, { descending: false }, { by: 'filename' }, { by: 'size' }] as const) {
      const { rows, count } = await read(listWith(filter, order));
      if (found !== undefined) expect(rows).toHaveLength(found);
      expect([order, count]).toEqual([order, expect.any(Number)]);
      expect(count).toBeLessThan(FEW);
    }
  });

  it('to', async () => {
    const list = listWith({ to: new Date(Date.now() - (FILES - 20) * 1000) });
    expect((await read(list)).count).toBeLessThan(FEW);
  });

  it('q', async () => {
    const hash = await hashOf(4321);
    for (const words of [
      [hash],
      [hash.slice(4, 16).toUpperCase()],
      [hash.slice(0, 12), 'jpg'],
      ['4321.jpg'],
    ]) {
      const { rows, count } = await read(listWith({ words }));
      expect(rows.length).toBeGreaterThan(0);
      expect(count).toBeLessThan(FEW);
    }
  });

  it('q, among files that are being processed too', async () => {
    const hash = await hashOf(77);
    await database.query(`UPDATE files SET status = 'processing' WHERE filename LIKE $1 AND owner_id = $2`, [
      `${hash}%`,
      ownerId,
    ]);
    const { rows, count } = await read(listWith({ words: [hash] }));
    expect(rows).toHaveLength(1);
    expect(count).toBeLessThan(FEW);
  });
});

describe('an order reads one page', () => {
  const ORDERS = (['createdAt', 'size', 'filename'] as const).flatMap((by) =>
    [true, false].map((descending) => ({ by, descending })),
  );

  it.each(ORDERS)('%j, also far behind the first', async (order) => {
    const list = listWith({}, order);
    const { sql, parameters } = selectFiles(list, undefined, FILES);
    const { rows } = await database.query(sql, parameters);
    for (const after of [undefined, rows[FILES / 2], rows[FILES - PAGE - 1]]) {
      const position = after && { key: after.position, id: after.id };
      const page = selectFiles(list, position, PAGE);
      expect(await countRead(database, page.sql, page.parameters)).toBeLessThan(FEW);
    }
  });

  it('of a common status, type or word', async () => {
    const filters: Filter[] = [
      { status: 'completed' },
      { type: 'image/*' },
      { words: ['jpg'] },
      { words: ['g'] },
    ];
    for (const filter of filters) {
      for (const order of ORDERS) {
        expect((await read(listWith(filter, order))).count).toBeLessThan(FEW);
      }
    }
  });
});

test('a database without pg_trgm is migrated, and has every index but the one for searches', async () => {
  const name = `test_plain_${randomBytes(6).toString('hex')}`;
  const admin = new pg.Client({ connectionString: process.env.TEST_DATABASE_URL });
  await admin.connect();
  try {
    // This role may not add extensions.
    await admin.query(`CREATE ROLE ${name} LOGIN PASSWORD 'only for the test'`);
    await admin.query(`CREATE DATABASE ${name} TEMPLATE template0`);
    const url = new URL(process.env.TEST_DATABASE_URL ?? '');
    url.pathname = name;
    const inside = new pg.Client({ connectionString: url.href });
    await inside.connect();
    await inside.query(`GRANT ALL ON SCHEMA public TO ${name}`);
    Object.assign(url, { username: name, password: 'only for the test' });
    await migrate(url.href, []);
    const { rows } = await inside.query(`SELECT indexname FROM pg_indexes WHERE tablename = 'files'`);
    await inside.end();
    const names = rows.map(({ indexname }) => indexname);
    expect(names).toContain('files_name_idx');
    expect(names).not.toContain('files_search_idx');
  } finally {
    await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    await admin.query(`DROP ROLE IF EXISTS ${name}`);
    await admin.end();
  }
});

test('a file with the same bytes is found in the index, whether there is none or half of all files have them', async () => {
  await database.query(
    `UPDATE files SET size = 5, sha256 = CASE WHEN status = 'failed' THEN repeat('a', 64) ELSE md5(id::text) || md5(filename) END`,
  );
  await database.query(
    `UPDATE files SET sha256 = repeat('b', 64) WHERE owner_id = $1 AND id > '80000000-0000-0000-0000-000000000000'`,
    [ownerId],
  );
  await database.query('ANALYZE files');
  for (const sha256 of ['a', 'b', 'c'].map((letter) => letter.repeat(64))) {
    const { sql, parameters } = selectTwin({ id: uuidv7(), ownerId, size: 5 }, sha256);
    expect(await countRead(database, sql, parameters)).toBeLessThan(10);
  }
});
