import { v7 as uuidv7 } from 'uuid';
import { UNLIMITED } from '../core/config.js';
import { listOverdue } from '../core/files/overdue.js';
import { listTrashBeyondQuota, listTrashOwners } from '../core/files/trash.js';
import { expireUploads } from '../core/uploads/expire.js';
import { createTrim, purgeAllOverdue } from '../worker/passes/purge.js';
import { WAITING_FOR_LOCKS } from './support/barrier.js';
import { parts } from './support/bytes.js';
import { freeLease } from './support/leases.js';
import { appendToUpload, openLedger, type TestLedger } from './support/ledger.js';
import { countRead } from './support/plans.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from './support/postgres-proxy.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';
import { setRoom } from './support/users.js';

/*
 * How many rows the reconciler's passes read. The number must not grow with rows that are not due: here there
 * are many of these, and few that are due.
 */

const IDLE = 20_000;

const QUOTA = { bytes: UNLIMITED, files: UNLIMITED };

/** Rows that a pass may read for a handful that are due. */
const FEW = 300;

let proxy: PostgresProxy;
let ledger: TestLedger;

beforeAll(async () => {
  proxy = await startPostgresProxy();
  ledger = await openLedger(proxy.reach);
  // A hundred other users have uploads that expire in a day, and files that are in the trash since yesterday.
  await ledger.query(
    `WITH owner AS (
       INSERT INTO users (id, email, role, max_files)
       SELECT gen_random_uuid(), n || '@example.org', 'user', ${IDLE} FROM generate_series(1, 100) AS n RETURNING id
     ), made AS (
       INSERT INTO uploads (id, owner_id, status, storage_key, expires_at)
       SELECT gen_random_uuid(), owner.id, CASE n % 2 WHEN 0 THEN 'uploading' ELSE 'finished' END,
         gen_random_uuid(), now() + interval '1 day'
       FROM owner, generate_series(1, ${IDLE / 50}) AS n RETURNING id, owner_id, status
     ), blob AS (
       INSERT INTO blobs (id, key, size, refs) SELECT id, id, 1, 1 FROM made WHERE status = 'finished'
     )
     INSERT INTO files (id, owner_id, blob_id, filename, size, status, created_at, deleted_at)
     SELECT id, owner_id, id, 'idle', 1, 'completed', now() - interval '1 day', now() - interval '1 day'
     FROM made WHERE status = 'finished'`,
  );
  await ledger.query('ANALYZE');
});

afterAll(async () => {
  await ledger?.close();
  await proxy?.close();
});

/**
 * The rows that each statement of `pass` reads. Each is carried out once more after the pass, to count them.
 */
async function readBy(pass: () => Promise<unknown>): Promise<[text: string, read: number][]> {
  const before = proxy.statements.length;
  await pass();
  const sent = proxy.statements.slice(before).filter(({ text }) => /uploads|files|users/.test(text));
  const counts: [string, number][] = [];
  for (const { text, parameters } of sent) counts.push([text, await countOnce(text, parameters)]);
  return counts;
}

const countOnce = (text: string, parameters: Statement['parameters']) =>
  countRead({ query: async (...args) => ({ rows: await ledger.query(...args) }) as never }, text, parameters);

async function trash(count: number): Promise<string[]> {
  const rows = await ledger.query(
    `WITH made AS (
       INSERT INTO uploads (id, owner_id, status, storage_key, expires_at)
       SELECT gen_random_uuid(), $1, 'finished', gen_random_uuid(), now() FROM generate_series(1, $2)
       RETURNING id, storage_key
     ), blob AS (
       INSERT INTO blobs (id, key, size, refs) SELECT id, storage_key, 1, 1 FROM made
     )
     INSERT INTO files (id, owner_id, blob_id, filename, size, status, created_at, deleted_at)
     SELECT id, $1, id, 'due', 1, 'completed', now(), now() FROM made RETURNING id`,
    [ledger.ownerId, count],
  );
  return rows.map(({ id }) => id);
}

async function countTrash(): Promise<number> {
  const [{ count }] = await ledger.query(
    'SELECT count(*)::integer AS count FROM files WHERE owner_id = $1 AND deleted_at IS NOT NULL',
    [ledger.ownerId],
  );
  return count;
}

test('the expiry pass reads only uploads that are due', async () => {
  for (let n = 0; n < 5; n++) {
    const { id } = await ledger.create(10);
    await freeLease(ledger, id);
    await makeDue(ledger, id);
  }
  let expired = 0;
  const read = await readBy(async () => {
    expired = await expireUploads(ledger.database);
  });
  expect(expired).toBe(5);
  expect(read.filter(([, count]) => count > FEW)).toEqual([]);
});

test('an append moves the expiry only when that is worth writing the index', async () => {
  const upload = await ledger.create(10);
  const expiry = async () => (await ledger.row(upload.id)).expires_at.getTime();
  const first = await expiry();
  await appendToUpload(ledger, upload, 1, parts('a'));
  expect(await expiry()).toBe(first);
  await ledger.query(`UPDATE uploads SET expires_at = expires_at - interval '20 minutes' WHERE id = $1`, [
    upload.id,
  ]);
  await appendToUpload(ledger, { ...upload, offset: 1 }, 1, parts('b'));
  expect(await expiry()).toBeGreaterThanOrEqual(first);
  // An expiry that is later than the configuration allows is moved back.
  await ledger.query(`UPDATE uploads SET expires_at = expires_at + interval '2 days' WHERE id = $1`, [
    upload.id,
  ]);
  await appendToUpload(ledger, { ...upload, offset: 2 }, 1, parts('c'));
  expect(await expiry()).toBeLessThan(first + 3_600_000);
});

test('the retention pass reads only files that are overdue', async () => {
  const ids = await trash(6);
  await ledger.query(
    `UPDATE files SET deleted_at = NULL, created_at = now() - interval '48 hours' WHERE id = ANY ($1)`,
    [ids.slice(0, 5)],
  );
  await ledger.query('UPDATE users SET used_bytes = 5, used_files = 5 WHERE id = $1', [ledger.ownerId]);
  let purged = 0;
  const read = await readBy(async () => {
    purged = await purgeAllOverdue(ledger, { since: 'created_at', hours: 48, reason: 'retention' });
  });
  expect(purged).toBe(5);
  expect(read.filter(([, count]) => count > FEW)).toEqual([]);
  expect(await countTrash()).toBe(1);
  await ledger.query('DELETE FROM files WHERE id = $1', [ids[5]]);
});

describe('files that are overdue in the trash', () => {
  const rule = { since: 'deleted_at', hours: 48, reason: 'trash_period' } as const;

  const age = (ids: string[], hours: number) =>
    ledger.query(`UPDATE files SET deleted_at = now() - $2 * interval '1 hour' WHERE id = ANY ($1)`, [
      ids,
      hours,
    ]);

  test('are found without reading the others', async () => {
    const ids = await trash(6);
    await age(ids.slice(0, 5), 48);
    await age(ids.slice(5), 47.9);
    let purged = 0;
    const read = await readBy(async () => {
      purged = await purgeAllOverdue(ledger, rule);
    });
    expect(purged).toBe(5);
    expect(read.filter(([, count]) => count > FEW)).toEqual([]);
    expect(await countTrash()).toBe(1);
    await age(ids.slice(5), 48);
    expect(await purgeAllOverdue(ledger, rule)).toBe(1);
  });

  test('are found once each, also when they are more than one batch and cannot be purged', async () => {
    const ids = await trash(1300);
    await age(ids, 100);
    const found: string[] = [];
    for await (const batch of listOverdue(ledger.database, rule)) {
      expect(batch.length).toBeLessThanOrEqual(1000);
      found.push(...batch);
      if (found.length > ids.length) break;
    }
    expect(found.sort()).toEqual(ids.sort());
    await ledger.query('DELETE FROM files WHERE id = ANY ($1)', [ids]);
  });

  test('are purged once by two passes at a time', async () => {
    await age(await trash(20), 100);
    const counts = await Promise.all([purgeAllOverdue(ledger, rule), purgeAllOverdue(ledger, rule)]);
    expect((counts[0] ?? 0) + (counts[1] ?? 0)).toBe(20);
  });

  test('stay when they are restored, and deleted again, before their turn comes', async () => {
    const ids = await trash(3);
    await age(ids, 100);
    const again = ledger.database.createQueryRunner();
    await again.startTransaction();
    await again.query('UPDATE files SET deleted_at = now() WHERE id = ANY ($1)', [ids]);
    const purged = purgeAllOverdue(ledger, rule);
    await until(
      'the pass waits for the files',
      async () => (await ledger.query(WAITING_FOR_LOCKS)).length > 0,
    );
    await again.commitTransaction();
    await again.release();
    expect(await purged).toBe(0);
    expect(await countTrash()).toBe(3);
    await age(ids, 100);
    expect(await purgeAllOverdue(ledger, rule)).toBe(3);
  });
});

describe('the trash', () => {
  beforeAll(() => setRoom(ledger, ledger.ownerId, { files: 2 }));

  test('is read as a whole once, and then only that of users who delete', async () => {
    const trim = createTrim(ledger);
    await trash(5);
    expect(await trim()).toBe(3);
    await trash(3);
    let purged = 0;
    const read = await readBy(async () => {
      purged = await trim();
    });
    expect(purged).toBe(3);
    expect(read.length).toBeGreaterThan(1);
    expect(read.filter(([, count]) => count > FEW)).toEqual([]);
    expect(await countTrash()).toBe(2);
  });

  test('is looked at again when a quota is set, though nothing is deleted', async () => {
    const trim = createTrim(ledger);
    await trash(2);
    await trim();
    await ledger.query(`UPDATE files SET deleted_at = deleted_at - interval '1 day' WHERE owner_id = $1`, [
      ledger.ownerId,
    ]);
    await setRoom(ledger, ledger.ownerId, { files: 1 });
    expect(await trim()).toBe(0);
    await ledger.query('UPDATE users SET quota_changed_at = now() WHERE id = $1', [ledger.ownerId]);
    expect(await trim()).toBe(1);
  });

  test('keeps its hands off a file that is restored while it is being trimmed', async () => {
    const ids = await trash(3);
    const restoring = ledger.database.createQueryRunner();
    await restoring.startTransaction();
    await restoring.query('UPDATE files SET deleted_at = NULL WHERE id = ANY ($1)', [ids]);
    const trimmed = createTrim(ledger)();
    await until(
      'the trim waits for the file',
      async () => (await ledger.query(WAITING_FOR_LOCKS)).length > 0,
    );
    await restoring.commitTransaction();
    await restoring.release();
    // The file that was in the trash before is purged; the restored ones are not, and do not count.
    expect(await trimmed).toBe(1);
    const left = await ledger.query('SELECT id FROM files WHERE id = ANY ($1)', [ids]);
    expect(left).toHaveLength(3);
  });

  test('is found also when it has more owners and more files than one batch', async () => {
    const owners = Array.from({ length: 120 }, () => uuidv7());
    await ledger.query(
      `INSERT INTO users (id, email, role, max_files) SELECT id, id, 'user', 0 FROM unnest($1::uuid[]) AS id`,
      [owners],
    );
    const ids = await trash(1300);
    await ledger.query(
      `UPDATE files SET owner_id = owner.id
       FROM unnest($1::uuid[]) WITH ORDINALITY AS owner (id, n), unnest($2::uuid[]) WITH ORDINALITY AS file (id, n)
       WHERE files.id = file.id AND owner.n = file.n`,
      [owners, ids],
    );
    const found = new Set<string>();
    for await (const some of listTrashOwners(ledger.database, undefined)) {
      expect(some.length).toBeLessThanOrEqual(100);
      for await (const batch of listTrashBeyondQuota(ledger.database, QUOTA, some)) {
        expect(batch.length).toBeLessThanOrEqual(1000);
        for (const id of batch) found.add(id);
        await ledger.query('DELETE FROM files WHERE id = ANY ($1)', [batch]);
      }
    }
    expect(owners.map((_, index) => found.has(ids[index] ?? ''))).toEqual(owners.map(() => true));
    expect(await countTrash()).toBe(1);
  });
});
