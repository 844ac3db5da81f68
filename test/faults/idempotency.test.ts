import { randomUUID } from 'node:crypto';
import { type Barrier, closeBarrier } from '../support/barrier.js';
import { registerUser, type TestUser } from '../support/client.js';
import { ageKeys, isReplayed, postKeyed } from '../support/keyed.js';
import { type Processes, startProcesses } from '../support/processes.js';
import { eventsOf, problemOf } from '../support/sign-in.js';

/*
 * Requests with an Idempotency-Key whose server dies, or loses its database, on the way. None of them is carried out twice
 * without a word.
 */

/** Longer than a request is taken for one that is being handled. */
const LONG_AGO_SECONDS = 180;

let processes: Processes;
let user: TestUser;
let id: string;
let key: string;
let open: Barrier[];

beforeEach(async () => {
  open = [];
  processes = await startProcesses();
  user = await registerUser(() => processes.url);
  id = await user.upload(Buffer.from('a file'), { filename: 'a.txt' });
  await user.settled(id);
  key = randomUUID();
});

afterEach(async () => {
  for (const barrier of open) await barrier.open();
  await processes.close();
});

/** Has the file processed again. */
const post = () => postKeyed(user, key, `/api/files/${id}/process`, {});

async function barrierAt(statement: string): Promise<Barrier> {
  const barrier = await closeBarrier(processes.database, statement);
  open.push(barrier);
  return barrier;
}

/** How often it was done. */
async function countDone(): Promise<number> {
  return (await eventsOf(processes.database, id)).filter((type) => type === 'file.pending').length;
}

/** Kills the server while a request stands at the barrier, and starts it again. */
async function killAt(barrier: Barrier): Promise<void> {
  const cut = post().catch(() => undefined);
  await barrier.reached();
  await processes.kill('server');
  expect(await cut).toBeUndefined();
  await barrier.cut();
  await processes.start('server');
}

async function expectUnknown(): Promise<void> {
  expect(await problemOf(await post())).toEqual([409, 'key_in_use']);
  await ageKeys(processes.database, LONG_AGO_SECONDS);
  expect(await problemOf(await post())).toEqual([409, 'outcome_unknown']);
}

test('a server that dies after the change and before the answer: the client is told that the outcome is not known', async () => {
  await killAt(await barrierAt('UPDATE ON keyed_requests'));
  expect(await countDone()).toBe(1);
  await expectUnknown();
  expect(await user.settled(id)).toMatchObject({ status: 'completed' });
  expect(await countDone()).toBe(1);
});

test('a server that dies before the change: the client is told the same, and a new key works', async () => {
  await killAt(await barrierAt('UPDATE ON files'));
  expect(await countDone()).toBe(0);
  await expectUnknown();
  key = randomUUID();
  expect((await post()).status).toBe(200);
  expect(await countDone()).toBe(1);
});

test('a connection that breaks during the change: the client is told that the outcome is not known', async () => {
  const barrier = await barrierAt('UPDATE ON files');
  const broken = post();
  await barrier.reached();
  await barrier.cut();
  expect(await problemOf(await broken)).toEqual([503, 'unavailable']);
  await expectUnknown();
});

test('an answer that cannot be kept is given all the same', async () => {
  const barrier = await barrierAt('UPDATE ON keyed_requests');
  const answer = post();
  await barrier.reached();
  await barrier.cut();
  expect((await answer).status).toBe(200);
  await expectUnknown();
  expect(await countDone()).toBe(1);
});

test('a change that is refused because others hold the file has no effect, and its key is free', async () => {
  await barrierAt('UPDATE ON files');
  // The statement waits for its lock as long as statements of requests may.
  expect(await problemOf(await post())).toEqual([503, 'unavailable']);
  expect(await countDone()).toBe(0);
  for (const barrier of open) await barrier.open();
  const again = await post();
  expect([again.status, isReplayed(again)]).toEqual([200, false]);
  expect(await countDone()).toBe(1);
});

test('a server that stops lets the request end, and keeps its answer', async () => {
  const barrier = await barrierAt('UPDATE ON files');
  const answer = post();
  await barrier.reached();
  const stopped = processes.stop('server');
  await barrier.open();
  expect((await answer).status).toBe(200);
  expect(await stopped).toBe(0);
  await processes.start('server');
  const again = await post();
  expect([again.status, isReplayed(again)]).toEqual([200, true]);
});
