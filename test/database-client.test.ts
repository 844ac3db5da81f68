import type { DataSource } from 'typeorm';
import { DatabasePool, type TimeLimits } from '../core/database/client.js';
import { openDatabase } from '../core/database/data-source.js';
import { openListener } from '../core/database/listen.js';
import { isConflict, isDatabaseAway } from '../core/database/outage.js';
import { createLogger } from '../core/log.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { type PostgresProxy, startPostgresProxy } from './support/postgres-proxy.js';
import { until } from './support/until.js';

/* How queries fail when PostgreSQL does not answer, and how that failure is told apart from others. */

/** Long enough for a connection on a busy machine. */
const LIMITS: TimeLimits = { statement: 1500, lock: 500, answer: 4000 };

let test_: TestDatabase;
let wire: PostgresProxy;
let url: string;
let database: DataSource;

beforeAll(async () => {
  test_ = await createDatabase();
  wire = await startPostgresProxy();
  url = await wire.reach(test_.url);
  database = await openDatabase(url, 'client test', { limits: LIMITS, poolSize: 10 });
});

afterAll(async () => {
  await database?.destroy();
  await wire?.close();
  await test_?.drop();
});

const failure = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  );

/** The two questions that callers ask about an error. */
const kindOf = (error: unknown) => ({ away: isDatabaseAway(error), conflict: isConflict(error) });
const AWAY = { away: true, conflict: false };
const CONFLICT = { away: false, conflict: true };
const NEITHER = { away: false, conflict: false };

test('queries that are under way when the host vanishes fail in time, and their connections are replaced', async () => {
  const sql = 'SELECT 10 AS ten';
  const pauses = Array.from({ length: 10 }, () => wire.pauseAt(({ text }) => text === sql, 'before'));
  const asking = pauses.map(() => failure(database.query(sql)));
  await Promise.all(pauses.map(({ reached }) => reached));
  wire.vanish();
  for (const { open } of pauses) open();
  for (const error of await Promise.all(asking)) expect(kindOf(error)).toEqual(AWAY);
  wire.reappear();
  const answers = Array.from({ length: 20 }, () => database.query('SELECT 1 AS one'));
  expect(await Promise.all(answers)).toEqual(Array(20).fill([{ one: 1 }]));
});

test('a transaction whose connection hangs in its middle fails in time', async () => {
  const broken = failure(
    database.transaction(async (manager) => {
      await manager.query('SELECT 1');
      wire.vanish();
      await manager.query('SELECT 2');
    }),
  );
  expect(kindOf(await broken)).toEqual(AWAY);
  wire.reappear();
  expect(await database.query('SELECT 3 AS three')).toEqual([{ three: 3 }]);
});

test('a transaction that has lost its connection between two statements says so', async () => {
  const broken = failure(
    database.transaction(async (manager) => {
      const [{ pid }] = await manager.query('SELECT pg_backend_pid() AS pid');
      await test_.query('SELECT pg_terminate_backend($1, 10000)', [pid]);
      await until('the client to notice', async () => {
        const error = await failure(manager.query('SELECT 1'));
        return error instanceof Error && /released/.test(error.message);
      });
      await manager.query('SELECT 1');
    }),
  );
  expect(kindOf(await broken)).toEqual(AWAY);
});

test('a statement that runs for too long is ended by PostgreSQL, and its connection goes on', async () => {
  const runner = database.createQueryRunner();
  const [{ before }] = await runner.query('SELECT pg_backend_pid() AS before');
  expect(kindOf(await failure(runner.query('SELECT pg_sleep(30)')))).toEqual(AWAY);
  expect(await runner.query('SELECT pg_backend_pid() AS before')).toEqual([{ before }]);
  await runner.release();
});

test('a lock that cannot be taken is a conflict', async () => {
  const holder = await test_.connect();
  await holder.query('BEGIN; LOCK TABLE users');
  expect(kindOf(await failure(database.query('SELECT FROM users FOR UPDATE')))).toEqual(CONFLICT);
  await holder.query('ROLLBACK');
});

test('without limits a statement takes as long as it needs', async () => {
  const unlimited = await openDatabase(url, 'client test');
  expect(await unlimited.query(`SELECT 'slow' AS it, pg_sleep(1.5)`)).toMatchObject([{ it: 'slow' }]);
  await unlimited.destroy();
});

test('a statement that PostgreSQL refuses is not an outage', async () => {
  for (const sql of [
    'SELECT 1/0',
    'SELECT nothing',
    'INSERT INTO users (id) VALUES (NULL)',
    'SELECT $1::int',
  ]) {
    expect(kindOf(await failure(database.query(sql, sql.includes('$1') ? ['x'] : [])))).toEqual(NEITHER);
  }
});

test('the failure of another service is not an outage of the database', async () => {
  const other = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:9000'), { code: 'ECONNREFUSED' });
  expect(kindOf(other)).toEqual(NEITHER);
  expect(kindOf(new Error('Connection terminated unexpectedly'))).toEqual(NEITHER);
});

test('the connection that listens is opened anew when it hangs', async () => {
  const listener = await openListener(url, createLogger('silent', 'test'));
  let heard = false;
  await listener.subscribe('news', () => {
    heard = true;
  });
  wire.vanish();
  wire.reappear();
  await until('it to hear again', async () => {
    await test_.query('NOTIFY news');
    return heard;
  });
  await listener.close();
});

test('a pool that hangs is closed in time', async () => {
  const other = await openDatabase(url, 'client test');
  wire.vanish();
  await other.destroy();
  wire.reappear();
});

test('a database that refuses connections is away', async () => {
  await wire.away();
  const errors = await Promise.all(Array.from({ length: 3 }, () => failure(database.query('SELECT 1'))));
  await wire.back();
  for (const error of errors) expect(kindOf(error)).toEqual(AWAY);
  expect(await database.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
});

test('a pool that has ended refuses in a later turn, so that a caller that asks again at once stops no timer', async () => {
  const pool = new DatabasePool({ connectionString: url });
  await pool.end();
  let ticked = false;
  setTimeout(() => {
    ticked = true;
  }, 1);
  for (let n = 0; n < 100_000 && !ticked; n++) {
    expect(kindOf(await failure(pool.query('SELECT 1')))).toEqual(AWAY);
  }
  expect(ticked).toBe(true);
});
