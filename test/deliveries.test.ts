import { Webhook } from 'standardwebhooks';
import { v7 as uuidv7 } from 'uuid';
import { claimDeliveries } from '../core/webhooks/claims.js';
import { forgetDeliveries } from '../core/webhooks/deliveries.js';
import { deleteWebhook } from '../core/webhooks/subscriptions.js';
import { CALLER, openDelivery, type TestDelivery } from './support/deliveries.js';
import { type Receiver, startReceiver } from './support/receiver.js';
import { until } from './support/until.js';

/* Events reach the receivers of webhooks: each one, in order by file, soon, and signed. */

let world: TestDelivery;
const receivers: Receiver[] = [];

beforeAll(async () => {
  world = await openDelivery();
  world.start('one');
  world.start('two');
});
afterEach(async () => {
  await world.ledger.query('UPDATE subscriptions SET deleted_at = now()');
  await Promise.all(receivers.splice(0).map((receiver) => receiver.close()));
});
afterAll(() => world?.close());

async function receive(...args: Parameters<typeof startReceiver>): Promise<Receiver> {
  const receiver = await startReceiver(...args);
  receivers.push(receiver);
  return receiver;
}

const runsOf = ({ received }: Receiver, fileId: string) =>
  received.filter(({ body }) => body.data.subjectId === fileId).map(({ body }) => body.data.run);

test('a message is signed as the specification says, and tells what happened', async () => {
  const receiver = await receive();
  const { id, secret } = await world.subscribe(receiver.url);
  const fileId = uuidv7();
  await world.happen(fileId, 1);
  const [delivery] = await world.ended(id, 1);
  const [got] = receiver.received;
  expect(delivery).toMatchObject({ state: 'delivered', status: 204, attempts: 1, error: null });
  expect(got?.headers['webhook-id']).toBe(delivery?.id);
  const headers = got?.headers as Record<string, string>;
  expect(new Webhook(secret).verify(got?.text ?? '', headers)).toEqual({
    type: 'file.processing',
    timestamp: expect.stringMatching(/^\d{4}-.*Z$/),
    data: { seq: delivery?.seq, subjectId: fileId, run: 1 },
  });
  expect(() => new Webhook(secret).verify(`${got?.text} `, headers)).toThrow();
});

test('a message comes soon', async () => {
  const receiver = await receive();
  const { id } = await world.subscribe(receiver.url);
  const took: number[] = [];
  for (let n = 1; n <= 5; n++) {
    const begun = Date.now();
    await world.happen(uuidv7(), n);
    await until('the message', () => receiver.received.length === n);
    took.push((receiver.received.at(-1)?.at ?? 0) - begun);
    await world.ended(id, n);
  }
  // Without the notification each but the first would take two seconds: it happens just after a worker has looked.
  expect(Math.min(...took.slice(1))).toBeLessThan(1000);
});

test('two workers send each event of many once, in order by file', async () => {
  const receiver = await receive();
  const { id } = await world.subscribe(receiver.url);
  const files = Array.from({ length: 40 }, () => uuidv7());
  for (let run = 1; run <= 5; run++) await Promise.all(files.map((file) => world.happen(file, run)));
  await world.ended(id, 200);
  for (const file of files) expect(runsOf(receiver, file)).toEqual([1, 2, 3, 4, 5]);
});

test('a failure holds up the later events of its file, and no others', async () => {
  const [bad, good] = [uuidv7(), uuidv7()];
  let failures = 0;
  let goOn = () => {};
  const others = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const receiver = await receive(async (res, { body }) => {
    const fails = body.data.subjectId === bad && body.data.run === 2 && failures < 2;
    // The repetition does not end before the other file's events have come.
    if (fails && ++failures === 2) await others;
    res.writeHead(fails ? 500 : 200).end('the answer');
  });
  const { id } = await world.subscribe(receiver.url);
  for (const run of [1, 2, 3, 4]) await world.happen(bad, run);
  for (const run of [1, 2, 3]) await world.happen(good, run);
  await until('the other file', () => runsOf(receiver, good).length === 3);
  expect(runsOf(receiver, bad)).not.toContain(3);
  goOn();
  await world.happen(bad, 5);
  const deliveries = await world.ended(id, 8);
  expect(runsOf(receiver, bad)).toEqual([1, 2, 2, 2, 3, 4, 5]);
  const ids = receiver.received
    .filter(({ body }) => body.data.subjectId === bad && body.data.run === 2)
    .map(({ headers }) => headers['webhook-id']);
  expect(new Set(ids).size).toBe(1);
  expect(deliveries.find((one) => one.id === ids[0])).toMatchObject({
    state: 'delivered',
    attempts: 3,
    status: 200,
    answer: 'the answer',
  });
});

test('receivers that hang, however many, do not delay the others', async () => {
  const hanging = await receive(() => {});
  const slow = await Promise.all(Array.from({ length: 12 }, () => world.subscribe(hanging.url)));
  const files = Array.from({ length: 20 }, () => uuidv7());
  for (const file of files) await world.happen(file, 1);
  await until('the messages to hang', () => hanging.open() > 20);
  // More than the places that workers have, if they all hang.
  const quick = await receive();
  const { id } = await world.subscribe(quick.url);
  const begun = Date.now();
  for (const file of files) await world.happen(file, 2, 3);
  await world.ended(id, 40);
  expect(Date.now() - begun).toBeLessThan(10_000);
  for (const file of files) expect(runsOf(quick, file)).toEqual([2, 3]);
  // Two workers, with four messages each for a receiver that is not known to be slow yet.
  for (const one of slow) {
    const states = (await world.deliveries(one.id)).filter(({ attempts }) => attempts > 0);
    expect(states.length).toBeLessThanOrEqual(8);
  }
});

test('deliveries are forgotten a week after their end, and those of a deleted webhook at once', async () => {
  const { ledger } = world;
  const receiver = await receive();
  const [kept, deleted] = [await world.subscribe(receiver.url), await world.subscribe(receiver.url)];
  await world.happen(uuidv7(), 1, 2);
  await Promise.all([world.ended(kept.id, 2), world.ended(deleted.id, 2)]);
  const [old, recent] = await world.deliveries(kept.id);
  const age = (id: string | undefined, days: number) =>
    ledger.query(`UPDATE deliveries SET finished_at = now() - $2 * interval '1 day' WHERE id = $1`, [
      id,
      days,
    ]);
  await age(old?.id, 7.01);
  await age(recent?.id, 6.99);
  await deleteWebhook(ledger.database, deleted.id, CALLER);
  await forgetDeliveries(ledger.database);
  expect((await world.deliveries(kept.id)).map(({ id }) => id)).toEqual([recent?.id]);
  expect(await ledger.query('SELECT FROM subscriptions WHERE id = $1', [deleted.id])).toEqual([]);
  expect(await world.deliveries(deleted.id)).toEqual([]);
});

test('claims read what is due, and not what waits behind it', async () => {
  await world.ledger.query(
    `INSERT INTO subscriptions (id, kind, owner_id, scope, url, events, after_seq)
     SELECT gen_random_uuid(), 'hook', NULL, 'all', 'http://nobody.example/', '{file.*}', 1000000000
     FROM generate_series(1, 20)`,
  );
  // Of 500 files each has one event that has failed, and nine more that wait for it.
  await world.ledger.query(
    `INSERT INTO deliveries (id, subscription_id, seq, type, subject_id, next_attempt_at)
     SELECT gen_random_uuid(), s.id, n, 'file.step', md5((n % 500)::text)::uuid, now() + interval '1 hour'
     FROM subscriptions s, generate_series(1, 5000) AS n WHERE s.kind = 'hook'`,
  );
  await world.ledger.query('ANALYZE');
  const begun = Date.now();
  for (let n = 0; n < 10; n++) {
    const options = { worker: 'x', kinds: ['hook' as const], busy: new Map(), quick: 32, slow: 32 };
    expect(await claimDeliveries(world.ledger.database, options)).toEqual([]);
  }
  // Each claim takes about 2 ms; reading all would take 100 times as long.
  expect(Date.now() - begun).toBeLessThan(1_500);
});
