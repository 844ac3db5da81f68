import { v7 as uuidv7 } from 'uuid';
import { openDatabase } from '../core/database/data-source.js';
import type { Upload } from '../core/database/entities/upload.js';
import { AppError } from '../core/errors.js';
import { trashFile } from '../core/files/purge.js';
import { listTrashBeyondQuota, listTrashOwners } from '../core/files/trash.js';
import { BytesLost } from '../core/storage/storage.js';
import { commitProgress, type LedgerDeps } from '../core/uploads/commit.js';
import { createUpload } from '../core/uploads/create.js';
import { terminateUpload } from '../core/uploads/end.js';
import { expireUploads } from '../core/uploads/expire.js';
import { expectBooksRight } from './support/books.js';
import { parts } from './support/bytes.js';
import {
  appendToUpload,
  declareUploadLength,
  finishUpload,
  leaseOf,
  openLedger,
  reserveRoom,
  type TestLedger,
} from './support/ledger.js';

/*
 * All operations that change the usage of a quota run at the same moment for the same users. The counts stay
 * right, and there is no deadlock. Two ledgers stand for two processes, each with connections of its own.
 */

const USERS = 6;

const QUOTA = { bytes: 2000, files: 40 };

let ledger: TestLedger;
let processes: LedgerDeps[];
let users: string[];

beforeAll(async () => {
  ledger = await openLedger();
  const other = await openDatabase(ledger.url, 'another process');
  processes = [ledger, other].map((one) => ({
    storage: ledger.storage,
    uploadExpiryHours: 24,
    quota: QUOTA,
    maxUploadSize: Number.MAX_SAFE_INTEGER,
    maxSizeByType: [],
    database: 'database' in one ? one.database : one,
  }));
  users = Array.from({ length: USERS }, () => uuidv7());
  await ledger.query(
    `INSERT INTO users (id, email, password_hash, role) SELECT id, id::text, '', 'user' FROM unnest($1::uuid[]) AS id`,
    [users],
  );
});

afterAll(async () => {
  await processes?.[1]?.database.destroy();
  await ledger?.close();
});

const pick = <T>(choices: T[]): T => choices[Math.floor(Math.random() * choices.length)] as T;

const create = (ownerId: string, length: number | null) =>
  createUpload(pick(processes), { id: uuidv7(), ownerId, length, metadata: {}, leaseHolder: 'x', actor: {} });

/** An AppError is an answer that users may get here. Any other error is a failure. */
async function attempt<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof AppError) return undefined;
    throw error;
  }
}

async function finish(upload: Upload): Promise<void> {
  await appendToUpload(pick(processes), upload, 1, parts('x'.repeat(upload.length ?? 0)));
  await finishUpload(pick(processes), upload.id);
}

/** Deletes the trash of all users beyond a quota that some of them exceed. */
async function purgeTrash(): Promise<void> {
  for await (const owners of listTrashOwners(ledger.database, undefined)) {
    for await (const ids of listTrashBeyondQuota(ledger.database, { bytes: 200, files: 3 }, owners)) {
      await Promise.all(ids.map((id) => attempt(terminateUpload(pick(processes), id))));
    }
  }
}

/** Runs one operation of each kind at once for one user. */
async function round(ownerId: string): Promise<void> {
  const made = await Promise.all(
    [100, 100, 100, 100, null, null].map((length) => attempt(create(ownerId, length))),
  );
  const [done, doomed, raced, overdue, growing, declared] = made;
  if (done) await attempt(finish(done));
  if (overdue)
    await ledger.query(`UPDATE uploads SET lease_holder = NULL, expires_at = now() WHERE id = $1`, [
      overdue.id,
    ]);
  const ahead = (upload: Upload, target: number) =>
    attempt(reserveRoom(pick(processes), upload, { target, ahead: 300 }));
  await Promise.all([
    expireUploads(pick(processes).database),
    ...(done
      ? [
          attempt(trashFile(pick(processes).database, done.id, {})),
          attempt(trashFile(pick(processes).database, done.id, {})),
          ...(Math.random() < 0.5 ? [attempt(terminateUpload(pick(processes), done.id))] : []),
        ]
      : []),
    ...(doomed ? [1, 2].map(() => attempt(terminateUpload(pick(processes), doomed.id))) : []),
    ...(raced ? [attempt(finish(raced)), attempt(terminateUpload(pick(processes), raced.id))] : []),
    ...(overdue ? [attempt(terminateUpload(pick(processes), overdue.id))] : []),
    ...(growing
      ? [ahead(growing, 50), ahead(growing, 150), attempt(terminateUpload(pick(processes), growing.id))]
      : []),
    ...(declared
      ? [
          ahead(declared, 80),
          attempt(declareUploadLength(pick(processes), declared, 1, 200)),
          attempt(commitProgress(pick(processes), leaseOf(declared, 1), { offset: 0 })),
        ]
      : []),
    attempt(create(ownerId, 500)),
    purgeTrash(),
  ]);
}

test('the counts stay right when all operations run at once for many users in two processes', async () => {
  let done = false;
  const watch = (async () => {
    while (!done)
      await expectBooksRight({ query: async (sql) => ({ rows: await ledger.query(sql) }) as never });
  })();
  for (let n = 0; n < 12; n++) await Promise.all(users.map(round));
  done = true;
  await watch;
  const [{ least, most }] = await ledger.query(
    `SELECT min(used_bytes)::integer AS least, max(used_bytes)::integer AS most FROM users WHERE id = ANY ($1)`,
    [users],
  );
  expect(least).toBeGreaterThanOrEqual(0);
  expect(most).toBeLessThanOrEqual(QUOTA.bytes);
});

test('the counts stay right when uploads expire, end and lose their leases at once', async () => {
  const made: (Upload | undefined)[] = [];
  await Promise.all(
    users.map((id) => ledger.query('UPDATE users SET max_bytes = -1, max_files = -1 WHERE id = $1', [id])),
  );
  for (let n = 0; n < 20; n++) made.push(...(await Promise.all(users.map((id) => create(id, 10)))));
  const ids = made.map((upload) => upload?.id ?? '');
  await ledger.query(
    `UPDATE uploads SET lease_holder = NULL, expires_at = now() - interval '1 second' WHERE id = ANY ($1)`,
    [ids],
  );
  await Promise.all([
    ...processes.flatMap(({ database }) => [expireUploads(database), expireUploads(database)]),
    ...ids.filter((_, n) => n % 3 === 0).map((id) => attempt(terminateUpload(pick(processes), id))),
    ...users.map((id) => attempt(create(id, 10))),
  ]);
  // Those that were just locked.
  await expireUploads(ledger.database);
  const left = await ledger.query(`SELECT id FROM uploads WHERE id = ANY ($1) AND status = 'uploading'`, [
    ids,
  ]);
  expect(left).toEqual([]);
  await expectBooksRight({ query: async (sql) => ({ rows: await ledger.query(sql) }) as never });
});

test('an upload without a length that the storage has lost gives back all that it had reserved', async () => {
  const ownerId = ledger.ownerId;
  const upload = await create(ownerId, null);
  const [deps] = processes as [LedgerDeps];
  expect(await reserveRoom(deps, upload, { target: 100, ahead: 800 })).toBeGreaterThan(100);
  const lost = new BytesLost('lost');
  const storage = {
    ...deps.storage,
    uploads: { ...deps.storage.uploads, open: () => Promise.reject(lost) },
  };
  await expect(appendToUpload({ ...deps, storage }, upload, 1, parts('x'))).rejects.toBe(lost);
  expect(await ledger.query('SELECT used_bytes, used_files FROM users WHERE id = $1', [ownerId])).toEqual([
    { used_bytes: '0', used_files: '0' },
  ]);
});
