import { v7 as uuidv7 } from 'uuid';
import { isDatabaseAway } from '../core/database/outage.js';
import { createUpload } from '../core/uploads/create.js';
import { expectBooksRight, usageOf } from './support/books.js';
import { registerUser } from './support/client.js';
import { openLedger, type TestLedger } from './support/ledger.js';
import { type PostgresProxy, startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { insertUser, setRoom } from './support/users.js';

/*
 * Creations of one user that come together are written in one statement. None fails or waits because of
 * another.
 */

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

/** Begins all of them before any has had an answer. */
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

const heldBy = (ownerId: string) =>
  ledger.query('SELECT used_bytes::integer AS bytes, used_files::integer AS files FROM users WHERE id = $1', [
    ownerId,
  ]);

test('a hundred at once take few statements, and each has its event', async () => {
  const ownerId = await insertUser(ledger);
  const before = postgres.statements.filter(isCreation).length;
  const results = await createTogether(
    ownerId,
    Array.from({ length: 100 }, (_, n) => ({ length: n + 1 })),
  );
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(100);
  // The first creation goes alone; the others wait for its end and go together.
  expect(postgres.statements.filter(isCreation).length - before).toBeLessThan(5);
  const rows = await ledger.query(
    `SELECT upload.id, length, data, actor ->> 'userId' AS by FROM uploads AS upload
     JOIN all_events ON subject_id = upload.id AND type = 'upload.created' WHERE upload.owner_id = $1 ORDER BY length`,
    [ownerId],
  );
  expect(rows.map(({ length, data, by }) => [Number(length), data, by])).toEqual(
    Array.from({ length: 100 }, (_, n) => [n + 1, { length: n + 1 }, ownerId]),
  );
  expect(await heldBy(ownerId)).toEqual([{ bytes: 5050, files: 100 }]);
});

test('a creation that the database does not answer does not hold up others', async () => {
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

test('a creation that the database refuses fails alone', async () => {
  const ownerId = await insertUser(ledger);
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

test('one refused creation of a hundred costs a few more statements, one at a time', async () => {
  const ownerId = await insertUser(ledger);
  const [from, began] = [postgres.statements.length, performance.now()];
  const wanted = Array.from({ length: 100 }, (_, n) => ({ length: 1, title: n === 70 ? '\0' : '' }));
  const results = await createTogether(ownerId, wanted);
  expect(results.map(({ status }) => status).filter((status) => status === 'rejected')).toHaveLength(1);
  expect(results[70]?.status).toBe('rejected');
  expect(await heldBy(ownerId)).toEqual([{ bytes: 99, files: 99 }]);
  const creations = postgres.statements.slice(from).filter(isCreation);
  expect(creations.length).toBeLessThan(20);
  // A statement that takes longer than half a second is not waited for.
  const most = 1 + Math.floor((performance.now() - began) / 500);
  expect(new Set(creations.map(({ connection }) => connection)).size).toBeLessThanOrEqual(most);
});

test('creations beyond the quota are refused, and all creations before them succeed', async () => {
  const ownerId = await insertUser(ledger);
  await setRoom(ledger, ownerId, { files: 30 });
  const results = await createTogether(ownerId, Array(80).fill({ length: 1 }));
  expect(results.map(({ status }) => status)).toEqual([
    ...Array(30).fill('fulfilled'),
    ...Array(50).fill('rejected'),
  ]);
});

test('when the database is lost, all creations of one statement fail at once', async () => {
  const ownerId = await insertUser(ledger);
  const first = postgres.pauseAt(isCreation, 'before');
  const results = createTogether(ownerId, Array(100).fill({ length: 1 }));
  await first.reached;
  // The others are sent after a while although the first has no answer.
  const others = postgres.pauseAt(isCreation, 'before');
  await others.reached;
  const from = postgres.statements.length;
  others.cut();
  first.open();
  const [one, ...rest] = await results;
  expect(one?.status).toBe('fulfilled');
  for (const result of rest) {
    expect(result.status === 'rejected' && isDatabaseAway(result.reason)).toBe(true);
  }
  expect(postgres.statements.slice(from).filter(isCreation)).toEqual([]);
});
