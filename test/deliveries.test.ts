import { Webhook } from 'standardwebhooks';
import { v7 as uuidv7 } from 'uuid';
import { openDelivery, type TestDelivery } from './support/deliveries.js';
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
  // Without the notification it would take a second on average.
  expect(Math.min(...took)).toBeLessThan(500);
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
  const receiver = await receive((res, { body }) => {
    const fails = body.data.subjectId === bad && body.data.run === 2 && ++failures <= 2;
    res.writeHead(fails ? 500 : 200).end('the answer');
  });
  const { id } = await world.subscribe(receiver.url);
  for (const run of [1, 2, 3, 4]) await world.happen(bad, run);
  for (const run of [1, 2, 3]) await world.happen(good, run);
  await until('the other file', () => runsOf(receiver, good).length === 3);
  expect(failures).toBeLessThan(3);
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
