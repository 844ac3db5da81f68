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
  ledger = await openLedger();
});
afterAll(async () => {
  await processes?.close();
  await postgres?.close();
  await ledger?.close();
});

const isCreation = ({ text }: { text: string }) => /INSERT INTO uploads/.test(text);

test('a hundred at once take a few statements, each with its event', async () => {
  const user = await registerUser(() => processes.url);
  const before = postgres.statements.filter(isCreation).length;
  const paths = await Promise.all(Array.from({ length: 100 }, (_, length) => user.create(length + 1)));
  expect(new Set(paths).size).toBe(100);
  const statements = postgres.statements.filter(isCreation).length - before;
  expect(statements).toBeGreaterThan(0);
  expect(statements).toBeLessThan(50);
  const { rows } = await processes.database.query(
    `SELECT upload.id, length, data, actor ->> 'userId' AS by FROM uploads AS upload
     JOIN events ON subject_id = upload.id AND type = 'upload.created' WHERE upload.owner_id = $1 ORDER BY length`,
    [user.id],
  );
  expect(rows.map(({ length, data, by }) => [Number(length), data, by])).toEqual(
    Array.from({ length: 100 }, (_, length) => [length + 1, { length: length + 1 }, user.id]),
  );
  expect(await usageOf(user)).toEqual({ bytes: 5050, files: 100 });
  await expectBooksRight(processes.database);
});

test('one that the database does not answer keeps no other waiting', async () => {
  const user = await registerUser(() => processes.url);
  const { reached, open } = postgres.pauseAt(({ text }) => /INSERT INTO uploads/.test(text), 'before');
  const first = user.create(10);
  await reached;
  const others = await Promise.all(Array.from({ length: 5 }, () => user.create(10)));
  expect(new Set(others).size).toBe(5);
  expect(await usageOf(user)).toEqual({ bytes: 50, files: 5 });
  open();
  await first;
  expect(await usageOf(user)).toEqual({ bytes: 60, files: 6 });
});

test('one that the database does not take fails alone', async () => {
  const { ownerId } = ledger;
  const begin = (title: string) =>
    createUpload(ledger, {
      id: uuidv7(),
      ownerId,
      length: 1,
      metadata: { title },
      leaseHolder: null,
      actor: {},
    });
  const results = await Promise.allSettled(['a', 'b', '\0', 'c', 'd'].map(begin));
  expect(results.map(({ status }) => status)).toEqual([
    'fulfilled',
    'fulfilled',
    'rejected',
    'fulfilled',
    'fulfilled',
  ]);
  expect(await ledger.query('SELECT used_files::integer FROM users')).toEqual([{ used_files: 4 }]);
});
