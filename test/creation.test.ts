import { v7 as uuidv7 } from 'uuid';
import { createUpload } from '../core/uploads/creation.js';
import { expectBooksRight, usageOf } from './books.js';
import { registerUser } from './client.js';
import { openLedger, type TestLedger } from './ledger.js';
import { type PostgresProxy, startPostgresProxy } from './postgres-proxy.js';
import { type Processes, startProcesses } from './processes.js';

/* Creations of one user that come together are written together. None suffers by that for another. */

let postgres: PostgresProxy;
let processes: Processes;
let ledger: TestLedger;

beforeAll(async () => {
  postgres = await startPostgresProxy();
  processes = await startProcesses({}, ['server'], postgres.reach);
  ledger = await openLedger(postgres.reach);
});
afterAll(async () => {
  await processes?.close();
  await ledger?.close();
  await postgres?.close();
});

const isCreation = ({ text }: { text: string }) => /INSERT INTO uploads/.test(text);

/** All in one go, before any has had an answer. */
function createTogether(ownerId: string, wanted: { length: number; title?: string }[]) {
  const begin = ({ length, title = '' }: { length: number; title?: string }) =>
    createUpload(ledger, {
      id: uuidv7(),
      ownerId,
      length,
      metadata: { title },
      leaseHolder: null,
      actor: { userId: ownerId },
    });
  return Promise.allSettled(wanted.map(begin));
}

async function newOwner(): Promise<string> {
  const id = uuidv7();
  await ledger.query(`INSERT INTO users (id, email, password_hash, role) VALUES ($1, $2, '', 'user')`, [
    id,
    `${id}@example.org`,
  ]);
  return id;
}

const heldBy = (ownerId: string) =>
  ledger.query('SELECT used_bytes::integer AS bytes, used_files::integer AS files FROM users WHERE id = $1', [
    ownerId,
  ]);

test('a hundred at once take two statements, each with its event', async () => {
  const ownerId = await newOwner();
  const before = postgres.statements.filter(isCreation).length;
  const results = await createTogether(
    ownerId,
    Array.from({ length: 100 }, (_, n) => ({ length: n + 1 })),
  );
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(100);
  // The first one goes alone, and the others while it is under way.
  expect(postgres.statements.filter(isCreation).length - before).toBe(2);
  const rows = await ledger.query(
    `SELECT upload.id, length, data, actor ->> 'userId' AS by FROM uploads AS upload
     JOIN events ON subject_id = upload.id AND type = 'upload.created' WHERE upload.owner_id = $1 ORDER BY length`,
    [ownerId],
  );
  expect(rows.map(({ length, data, by }) => [Number(length), data, by])).toEqual(
    Array.from({ length: 100 }, (_, n) => [n + 1, { length: n + 1 }, ownerId]),
  );
  expect(await heldBy(ownerId)).toEqual([{ bytes: 5050, files: 100 }]);
});

test('one that the database does not answer keeps no other waiting', async () => {
  const user = await registerUser(() => processes.url);
  const { reached, open } = postgres.pauseAt(isCreation, 'before');
  const first = user.create(10);
  await reached;
  const others = await Promise.all(Array.from({ length: 5 }, () => user.create(10)));
  expect(new Set(others).size).toBe(5);
  expect(await usageOf(user)).toEqual({ bytes: 50, files: 5 });
  open();
  await first;
  expect(await usageOf(user)).toEqual({ bytes: 60, files: 6 });
  await expectBooksRight(processes.database);
});

test('one that the database does not take fails alone', async () => {
  const ownerId = await newOwner();
  const results = await createTogether(
    ownerId,
    ['a', 'b', '\0', 'c', 'd'].map((title) => ({ length: 1, title })),
  );
  expect(results.map(({ status }) => status)).toEqual([
    'fulfilled',
    'fulfilled',
    'rejected',
    'fulfilled',
    'fulfilled',
  ]);
  expect(await heldBy(ownerId)).toEqual([{ bytes: 4, files: 4 }]);
});
