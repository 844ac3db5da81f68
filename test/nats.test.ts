import { registerUser, type TestUser } from './support/client.js';
import { createNatsServer, type NatsServer, type StreamMessage } from './support/nats.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Every event reaches NATS JetStream, in the order of its file, whatever is killed, away or slow. */

let nats: NatsServer;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  nats = await createNatsServer();
  // NATS is away while the worker starts.
  processes = await startProcesses({ NATS_URL: nats.url, LOG_LEVEL: 'info', WORKER_CONCURRENCY: '8' });
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await nats?.close();
});

/** All that was done, as the event log has it. */
async function logged(): Promise<{ seq: number; type: string; subjectId: string; ownerId: string }[]> {
  const { rows } = await processes.database.query(
    `SELECT seq::integer AS seq, type, subject_id AS "subjectId", owner_id AS "ownerId"
     FROM events WHERE result = 'ok' ORDER BY seq`,
  );
  return rows;
}

/** Waits until the cursor stands at the end of the log, after all files have come to their end. */
async function allPublished(): Promise<void> {
  await until('all events to be published', async () => {
    const { rows } = await processes.database.query(
      `SELECT FROM event_cursors, event_head
       WHERE name = 'nats' AND event_cursors.seq = event_head.seq AND NOT EXISTS (SELECT FROM event_inbox)`,
    );
    return rows.length > 0;
  });
}

const upload = (count: number) =>
  Promise.all(Array.from({ length: count }, (_, n) => user.upload(Buffer.from(`file ${n}`))));

const settled = (ids: string[]) => Promise.all(ids.map((id) => user.settled(id)));

function bySubject<T extends { seq: number; subjectId: string }>(events: T[]): Record<string, number[]> {
  const seqs: Record<string, number[]> = {};
  for (const { seq, subjectId } of events) seqs[subjectId] = [...(seqs[subjectId] ?? []), seq];
  return seqs;
}

/** The stream has each event of the log once, and the events of each file in their order. */
async function expectAllOnceInOrder(
  stream = 'LANDFALL',
  known: StreamMessage[] = [],
): Promise<StreamMessage[]> {
  await allPublished();
  const messages = [...known, ...(await nats.read(stream))];
  const events = await logged();
  expect(bySubject(messages.map(({ body }) => body))).toEqual(bySubject(events));
  expect(new Set(messages.map(({ id }) => id)).size).toBe(messages.length);
  return messages;
}

const cursor = `SELECT FROM event_cursors WHERE name = 'nats'`;

test('events wait for a NATS that is away, and its stream is made when it comes', async () => {
  const ids = await upload(8);
  // Uploads and processing do not wait.
  for (const file of await settled(ids)) expect(file.status).toBe('completed');
  expect(processes.logOf('worker')).toContain('ECONNREFUSED');
  await nats.start();
  const messages = await expectAllOnceInOrder();
  const completed = messages.filter(({ subject }) => subject === 'landfall.file.completed');
  expect(completed.map(({ body }) => body.subjectId).sort()).toEqual([...ids].sort());
  const { id, body } = completed[0] ?? {};
  expect(body).toEqual({
    seq: expect.any(Number),
    type: 'file.completed',
    subjectId: expect.any(String),
    ownerId: user.id,
    data: { run: 1 },
    createdAt: expect.any(String),
  });
  expect(id).toMatch(new RegExp(`^${body?.seq}-[0-9a-f]{16}$`));
  const { config } = await nats.as((manager) => manager.streams.info('LANDFALL'));
  expect(config).toMatchObject({ subjects: ['landfall.>'], storage: 'file' });
});

test('a message follows its event at once; refused requests are for the audit log only', async () => {
  const [id = ''] = await upload(1);
  const began = Date.now();
  await until('the message', async () => {
    const last = await nats.as((manager) =>
      manager.streams.getMessage('LANDFALL', { last_by_subj: 'landfall.upload.created' }),
    );
    return last?.json<StreamMessage['body']>().subjectId === id;
  });
  // Without being woken the worker would look every 30 s.
  expect(Date.now() - began).toBeLessThan(15_000);
  await settled([id]);
  const other = await registerUser(() => processes.url);
  expect((await other.fetch('/api/admin/users')).status).toBe(403);
  await until('the refusal', async () => {
    const { rows } = await processes.database.query(`SELECT FROM events WHERE result = 'refused'`);
    return rows.length > 0;
  });
  await expectAllOnceInOrder();
});

test('nats-server is killed and started again in the middle', async () => {
  const ids: string[] = [];
  for (let kill = 0; kill < 3; kill++) {
    const uploads = upload(8);
    await nats.kill();
    ids.push(...(await uploads));
    await nats.start();
  }
  await settled(ids);
  await expectAllOnceInOrder();
});

test('the worker dies after NATS has stored events and before its cursor moves', async () => {
  await allPublished();
  const before = (await nats.read('LANDFALL')).length;
  const holder = await processes.database.connect();
  await holder.query('BEGIN');
  await holder.query(`${cursor} FOR UPDATE`);
  await upload(5);
  await until('NATS to have some', async () => (await nats.read('LANDFALL')).length > before);
  await processes.kill('worker');
  // PostgreSQL notices the death of a client only when it answers, so the statement would take effect.
  const waiting = `FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'UPDATE event_cursors%'`;
  await processes.database.query(`SELECT pg_terminate_backend(pid) ${waiting}`);
  await until(
    'it to end',
    async () => (await processes.database.query(`SELECT ${waiting}`)).rows.length === 0,
  );
  await holder.query('ROLLBACK');
  const { rows } = await processes.database.query(
    `SELECT event_cursors.seq < event_head.seq AS behind FROM event_cursors, event_head WHERE name = 'nats'`,
  );
  expect(rows).toEqual([{ behind: true }]);
  await processes.start('worker');
  await settled(
    (await logged()).filter(({ type }) => type === 'file.created').map(({ subjectId }) => subjectId),
  );
  await expectAllOnceInOrder();
});

test('a nats-server that stands still stops nothing, and gets all events when it goes on', async () => {
  const ids = await upload(5);
  process.kill(nats.pid(), 'SIGSTOP');
  try {
    ids.push(...(await upload(5)));
    await settled(ids);
    await until('the worker to give up', () =>
      /not stored .*(timeout|closed)|stale/i.test(processes.logOf('worker')),
    );
  } finally {
    process.kill(nats.pid(), 'SIGCONT');
  }
  await expectAllOnceInOrder();
});

test('a stream that somebody deletes is made again', async () => {
  const before = await expectAllOnceInOrder();
  await nats.as((manager) => manager.streams.delete('LANDFALL'));
  await settled(await upload(5));
  await expectAllOnceInOrder('LANDFALL', before);
});
