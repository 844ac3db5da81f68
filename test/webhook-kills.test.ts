import { closeBarrier } from './support/barrier.js';
import { registerUser, type TestUser } from './support/client.js';
import { type PostgresProxy, startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { type Receiver, startReceiver } from './support/receiver.js';
import { send } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * A worker is killed at each step of a delivery. Nothing is lost, nothing comes out of order, and whatever is sent again
 * bears the same id.
 */

let proxy: PostgresProxy;
let processes: Processes;
let user: TestUser;
let receiver: Receiver;
let webhookId: string;

beforeAll(async () => {
  proxy = await startPostgresProxy();
  processes = await startProcesses(
    { WEBHOOK_ALLOW_PRIVATE: 'true', RATE_LIMIT_PROCESSING: '0' },
    ['server'],
    proxy.reach,
  );
  user = await registerUser(() => processes.url);
});
beforeEach(async () => {
  receiver = await startReceiver();
  const made = { url: receiver.url, events: ['upload.created', 'file.created'] };
  webhookId = (await (await send(user, 'POST', '/api/webhooks', made)).json()).id;
});
afterEach(async () => {
  await user.fetch(`/api/webhooks/${webhookId}`, { method: 'DELETE' });
  await receiver.close();
});
afterAll(async () => {
  await processes?.close();
  await proxy?.close();
});

const newFile = () => user.upload(Buffer.from('a file'), { filename: 'a.txt' });

/** Waits until the receiver has both events, in order, and nothing more is to be sent. */
async function expectAllDelivered(fileId: string): Promise<void> {
  await until('the deliveries to end', async () => {
    const { items } = await user.get(`/api/webhooks/${webhookId}/deliveries`);
    return items.length === 2 && items.every(({ state }: { state: string }) => state === 'delivered');
  });
  const ofFile = receiver.received.filter(({ body }) => body.data.subjectId === fileId);
  expect(ofFile).toHaveLength(receiver.received.length);
  const types = ofFile.map(({ body }) => body.type);
  // The first one may have come twice.
  expect(types.slice(-2)).toEqual(['upload.created', 'file.created']);
  const ids = new Map(ofFile.map(({ body, headers }) => [headers['webhook-id'], body.data.seq]));
  expect(ids.size).toBe(2);
}

test('while events are fanned out', async () => {
  const barrier = await closeBarrier(processes.database, 'INSERT ON deliveries');
  await processes.start('worker');
  const fileId = await newFile();
  await barrier.reached();
  await processes.kill('worker');
  await barrier.cut();
  await processes.start('worker');
  await expectAllDelivered(fileId);
  expect(receiver.received).toHaveLength(2);
  await processes.stop('worker');
});

test('after a delivery is claimed, before it is sent', async () => {
  const claim = proxy.pauseAt(({ text }) => /^\s*WITH RECURSIVE active/.test(text), 'after');
  const fileId = await newFile();
  await until('the events to be numbered', async () => {
    const { rows } = await processes.database.query('SELECT FROM event_inbox LIMIT 1');
    return rows.length === 0;
  });
  await processes.start('worker');
  await claim.reached;
  const { rows } = await processes.database.query('SELECT FROM deliveries WHERE claimed_by IS NOT NULL');
  expect(rows).toHaveLength(1);
  await processes.kill('worker');
  claim.cut();
  expect(receiver.received).toEqual([]);
  await processes.start('worker');
  await expectAllDelivered(fileId);
  await processes.stop('worker');
});

test('while a receiver takes its time', async () => {
  let answered = false;
  receiver.answer = (res) => {
    if (answered) res.end();
  };
  await processes.start('worker');
  const fileId = await newFile();
  await until('a message', () => receiver.received.length > 0);
  await processes.kill('worker');
  answered = true;
  await processes.start('worker');
  await expectAllDelivered(fileId);
  expect(receiver.received).toHaveLength(3);
  await processes.stop('worker');
});

test('after a message was taken, before that is recorded', async () => {
  const barrier = await closeBarrier(processes.database, 'UPDATE ON deliveries', `NEW.state = 'delivered'`);
  await processes.start('worker');
  const fileId = await newFile();
  await barrier.reached();
  expect(receiver.received).toHaveLength(1);
  await processes.kill('worker');
  await barrier.cut();
  await processes.start('worker');
  await expectAllDelivered(fileId);
  expect(receiver.received).toHaveLength(3);
  await processes.stop('worker');
});

test('another worker goes on when the claim of a killed one has run out, and not before', async () => {
  receiver.answer = () => {};
  await processes.start('worker');
  const fileId = await newFile();
  await until('a message', () => receiver.received.length > 0);
  await processes.kill('worker');
  receiver.answer = (res) => res.end();
  await processes.start('worker-2');
  const claimed = await processes.database.query(
    'SELECT claimed_by, claimed_until > now() AS held FROM deliveries WHERE subscription_id = $1 AND claimed_by IS NOT NULL',
    [webhookId],
  );
  expect(claimed.rows).toEqual([{ claimed_by: 'worker', held: true }]);
  // Another file shows that this worker delivers.
  const other = await newFile();
  await until('the other file', () => receiver.received.some(({ body }) => body.data.subjectId === other));
  expect(receiver.received.filter(({ body }) => body.data.subjectId === fileId)).toHaveLength(1);
  await processes.database.query('UPDATE deliveries SET claimed_until = now() WHERE claimed_by IS NOT NULL');
  await until('the first file', () => {
    const told = receiver.received.filter(({ body }) => body.data.subjectId === fileId);
    return told.length === 3 && told[0]?.headers['webhook-id'] === told[1]?.headers['webhook-id'];
  });
  await processes.stop('worker-2');
});

test('a worker that stops gives back what it is sending', async () => {
  receiver.answer = () => {};
  await processes.start('worker');
  const fileId = await newFile();
  await until('a message', () => receiver.received.length > 0);
  expect(await processes.stop('worker')).toBe(0);
  receiver.answer = (res) => res.end();
  await processes.start('worker-2');
  await expectAllDelivered(fileId);
  await processes.stop('worker-2');
});
