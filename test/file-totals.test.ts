import type { DataSource } from 'typeorm';
import { openDatabase } from '../core/database/data-source.js';
import { percentile } from '../core/files/statistics.js';
import { addChanges } from '../core/files/totals.js';
import { registerUser, type TestUser } from './support/client.js';
import { purge, restore, trash } from './support/deletions.js';
import { type Processes, startProcesses } from './support/processes.js';
import { storeFiles } from './support/stored-files.js';
import { until } from './support/until.js';

/* The counts of GET /api/stats: they are what a count of the files would give, at every moment. */

let processes: Processes;
let database: DataSource;
let user: TestUser;

beforeAll(async () => {
  const buckets = ['UPLOADS', 'STATUS', 'PROCESSING', 'GLOBAL'];
  processes = await startProcesses(
    Object.fromEntries(buckets.map((bucket) => [`RATE_LIMIT_${bucket}`, '0'])),
    ['server', 'worker'],
  );
  database = await openDatabase(processes.database.url, 'test of totals');
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await database?.destroy();
  await processes?.close();
});

const EMPTY = { files: 0, bytes: 0 };

/** What a count says and what the sums say, in the same moment; only where they differ. */
async function findDifferences(): Promise<object[]> {
  const { rows } = await processes.database.query(
    `WITH counted AS (
       SELECT owner_id, deleted_at IS NOT NULL AS trashed, status, coalesce(file_type(detected_type, declared_type), '') AS type,
              count(*) AS files, sum(size) AS bytes
       FROM files GROUP BY 1, 2, 3, 4
     ), summed AS (
       SELECT owner_id, trashed, status, type, sum(files) AS files, sum(bytes) AS bytes FROM (
         SELECT owner_id, trashed, status, type, files, bytes FROM file_totals
         UNION ALL SELECT owner_id, trashed, status, type, files, bytes FROM file_changes
       ) AS one GROUP BY 1, 2, 3, 4 HAVING sum(files) <> 0 OR sum(bytes) <> 0
     )
     SELECT to_jsonb(counted) AS counted, to_jsonb(summed) AS summed
     FROM counted FULL JOIN summed USING (owner_id, trashed, status, type)
     WHERE counted.files IS DISTINCT FROM summed.files OR counted.bytes IS DISTINCT FROM summed.bytes`,
  );
  return rows;
}

async function countIn(table: string): Promise<number> {
  const { rows } = await processes.database.query(`SELECT count(*)::int AS count FROM ${table}`);
  return rows[0].count;
}

/** Also waits for the worker, which may be adding some of them up. */
async function addAll(): Promise<void> {
  await until('all changes are in the sums', async () => {
    await addChanges(database);
    return (await countIn('file_changes')) === 0;
  });
}

it('a new user has no files, and no durations', async () => {
  const newcomer = await registerUser(() => processes.url);
  const answer = await newcomer.get('/api/stats');
  expect(answer).toMatchObject({ ...EMPTY, trash: EMPTY, byStatus: { completed: EMPTY, paused: EMPTY } });
  expect(Object.keys(answer.byStatus)).toHaveLength(7);
  const { lastDay } = answer;
  expect(lastDay).toMatchObject({ created: EMPTY, completed: EMPTY, failed: EMPTY, infected: EMPTY });
  expect(lastDay.throughput).toEqual({ filesPerHour: 0, bytesPerHour: 0 });
  expect(lastDay.processingSeconds).toEqual({ average: null, p95: null });
  const age = Date.now() - new Date(lastDay.since).getTime();
  expect(age).toBeGreaterThanOrEqual(24 * 3_600_000);
  expect(age).toBeLessThan(25 * 3_600_000 + 60_000);
  expect(await newcomer.get('/api/stats/types')).toEqual({
    items: [],
    nextCursor: null,
    others: { ...EMPTY, types: 0 },
  });
});

it('counts by status and by type, with the trash apart, before and after the changes are added up', async () => {
  const owner = await registerUser(() => processes.url);
  const types = ['image/jpeg', 'image/jpeg', 'Text/Plain; charset=x', null];
  await storeFiles(
    processes.database,
    owner.id,
    types.flatMap((declaredType, n) => [
      { declaredType, size: 10 ** n, status: 'completed' },
      { declaredType, size: 5, status: 'failed' },
      { declaredType, size: 7, deletedAt: new Date().toISOString() },
    ]),
  );
  for (let round = 0; round < 2; round++) {
    expect(await owner.get('/api/stats')).toMatchObject({
      files: 8,
      bytes: 1131,
      byStatus: { completed: { files: 4, bytes: 1111 }, failed: { files: 4, bytes: 20 }, pending: EMPTY },
      trash: { files: 4, bytes: 28 },
      lastDay: { created: { files: 12, bytes: 1159 } },
    });
    expect((await owner.get('/api/stats/types')).items).toEqual([
      { type: 'image/jpeg', files: 4, bytes: 21 },
      { type: 'text/plain', files: 2, bytes: 105 },
      { type: null, files: 2, bytes: 1005 },
    ]);
    await addAll();
  }
});

it('lists the hundred most frequent types, and adds up the others', async () => {
  const owner = await registerUser(() => processes.url);
  const files = Array.from({ length: 130 }, (_, n) => ({ declaredType: `x/t${n}`, size: 2 }));
  await storeFiles(processes.database, owner.id, [...files, ...files.slice(50)]);
  const { items, others } = await owner.get('/api/stats/types');
  expect(items).toHaveLength(100);
  expect(items.slice(0, 80).every((item: { files: number }) => item.files === 2)).toBe(true);
  expect(others).toEqual({ types: 30, files: 30, bytes: 60 });
});

it('tells how many files were processed in the last day, and how long that took', async () => {
  const owner = await registerUser(() => processes.url);
  const files = [];
  for (let n = 0; n < 5; n++) files.push(await owner.settled(await owner.upload(Buffer.from(`file ${n}`))));
  const bad = await owner.settled(await owner.upload(Buffer.from('bad'), { sha256: 'a'.repeat(64) }));
  expect(bad.status).toBe('failed');
  const { rows } = await processes.database.query(
    `SELECT 1000 * extract(epoch FROM updated_at - processing_since) AS ms FROM files WHERE owner_id = $1`,
    [owner.id],
  );
  const durations = rows.map(({ ms }) => Number(ms));
  const { lastDay } = await owner.get('/api/stats');
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  expect(lastDay).toMatchObject({ completed: { files: 5, bytes }, failed: { files: 1, bytes: 3 } });
  expect(lastDay.throughput.filesPerHour).toBeCloseTo(5 / 24.5, 1);
  const { average, p95 } = lastDay.processingSeconds;
  expect(average * 1000).toBeCloseTo(durations.reduce((sum, ms) => sum + ms, 0) / durations.length, -1);
  expect(p95 * 1000).toBeGreaterThan(Math.max(...durations) * 0.9);
  expect(p95 * 1000).toBeLessThan(Math.max(...durations) * 1.1 + 1);

  // The worker forgets hours of which nothing is told any more.
  await addAll();
  await processes.database.query(
    `UPDATE file_hours SET hour = hour - interval '26 hours' WHERE owner_id = $1`,
    [owner.id],
  );
  expect((await owner.get('/api/stats')).lastDay.completed).toEqual(EMPTY);
  await processes.database.query(
    `UPDATE file_hours SET hour = hour - interval '2 days' WHERE owner_id = $1`,
    [owner.id],
  );
  await addChanges(database);
  const left = await processes.database.query('SELECT FROM file_hours WHERE owner_id = $1', [owner.id]);
  expect(left.rowCount).toBe(0);
});

it('agrees with a count during and after a storm of uploads, changes, restores and purges, with killed workers', async () => {
  let storming = true;
  const ids: string[] = [];
  const pick = () => ids[Math.floor(Math.random() * ids.length)] ?? '';
  const post = (path: string) => user.fetch(path, { method: 'POST' });
  const acts: (() => Promise<unknown>)[] = [
    async () =>
      void ids.push(
        await user.upload(Buffer.from('x'.repeat(ids.length % 50)), { filetype: `a/b${ids.length % 5}` }),
      ),
    () => trash(user, pick()),
    () => restore(user, pick()),
    () => purge(user, pick()),
    ...['cancel', 'retry', 'pause', 'resume'].map((verb) => () => post(`/api/files/${pick()}/${verb}`)),
  ];
  const clients = Array.from({ length: 6 }, async (_, client) => {
    for (let n = client; storming; n++) await (acts[n % acts.length] ?? acts[0])?.();
  });
  const adders = Array.from({ length: 3 }, async () => {
    while (storming)
      await addChanges(database).catch((error) => expect(String(error)).toMatch(/deadlock|Conflict/));
  });
  const differences: object[] = [];
  for (let round = 0; round < 4; round++) {
    for (let n = 0; n < 10; n++) differences.push(...(await findDifferences()));
    if (round % 2 === 1) {
      await processes.kill('worker');
      await processes.start('worker');
    }
    const { length } = ids;
    await until('more uploads', () => ids.length > length + 20);
  }
  storming = false;
  await Promise.all([...clients, ...adders]);
  expect(ids.length).toBeGreaterThan(80);
  expect(differences).toEqual([]);

  await addAll();
  expect(await findDifferences()).toEqual([]);
  const { rows } = await processes.database.query(
    `SELECT (SELECT count(*)::int FROM file_totals WHERE files < 0 OR bytes < 0) AS negative,
            (SELECT count(*)::int FROM files WHERE owner_id = $1 AND deleted_at IS NULL) AS files,
            (SELECT count(*)::int FROM files WHERE owner_id = $1 AND deleted_at IS NOT NULL) AS trashed`,
    [user.id],
  );
  const stats = await user.get('/api/stats');
  expect([stats.files, stats.trash.files, rows[0].negative]).toEqual([rows[0].files, rows[0].trashed, 0]);
  expect(stats.lastDay.created.files).toBe(ids.length);
});

it('the worker adds the changes up', async () => {
  await user.upload(Buffer.from('another'));
  await until('no change is left', async () => (await countIn('file_changes')) === 0);
  expect(await findDifferences()).toEqual([]);
});

it('keeps no row of a type that no file has any more', async () => {
  const owner = await registerUser(() => processes.url);
  await storeFiles(processes.database, owner.id, [{ declaredType: 'x/gone' }, { declaredType: 'x/kept' }]);
  await addAll();
  await processes.database.query(`UPDATE files SET declared_type = 'x/kept' WHERE owner_id = $1`, [owner.id]);
  await addAll();
  const { rows } = await processes.database.query('SELECT type, files FROM file_totals WHERE owner_id = $1', [
    owner.id,
  ]);
  expect(rows).toEqual([{ type: 'x/kept', files: '2' }]);
});

it('finds percentiles in classes of durations to a twentieth', () => {
  const classOf = (ms: number) => Math.ceil(8 * Math.log2(Math.max(ms, 1)));
  for (const durations of [
    [1],
    [7, 7, 7],
    [10, 20, 30, 40, 5000],
    Array.from({ length: 1000 }, (_, n) => n * 3 + 1),
  ]) {
    const classes = durations.map((ms) => ({ msClass: classOf(ms), files: 1 }));
    const exact = durations.toSorted((a, b) => a - b)[Math.ceil(durations.length * 0.95) - 1] ?? 0;
    const found = percentile(classes, 0.95) ?? 0;
    expect(found / exact).toBeGreaterThan(0.95);
    expect(found / exact).toBeLessThan(1.05);
  }
  expect(percentile([], 0.95)).toBeNull();
});
