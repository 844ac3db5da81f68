import { registerUser, type TestUser } from './support/client.js';
import { openEvents } from './support/event-stream.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from './support/postgres-proxy.js';
import { type Processes, startProcesses } from './support/processes.js';
import { eventsOf } from './support/sign-in.js';
import { until } from './support/until.js';

let wire: PostgresProxy;
let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  wire = await startPostgresProxy();
  processes = await startProcesses({}, ['server', 'worker'], wire.reach);
  user = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await wire?.close();
});

const tusHeaders = { 'Tus-Resumable': '1.0.0' };

/** Waits until all events so far have numbers, which servers give in transactions of their own. */
async function numbered(): Promise<void> {
  await until('all events to be numbered', async () => {
    const { rows } = await processes.database.query('SELECT FROM event_inbox');
    return rows.length === 0;
  });
}

test('clients are told to retry while the database is away, and uploads go on when it is back', async () => {
  const upload = await user.create(6);
  const patch = (offset: number, body: string) =>
    user.fetch(upload, {
      method: 'PATCH',
      headers: {
        ...tusHeaders,
        'Upload-Offset': String(offset),
        'Content-Type': 'application/offset+octet-stream',
      },
      body,
    });
  expect((await patch(0, 'abc')).status).toBe(204);

  await wire.away();
  const list = await user.fetch('/api/files');
  expect([list.status, (await list.json()).code]).toEqual([503, 'unavailable']);
  expect((await patch(3, 'def')).status).toBe(503);
  // A 5xx would make tus-js-client begin again with the first byte.
  expect((await user.fetch(upload, { method: 'HEAD', headers: tusHeaders })).status).toBe(423);
  expect((await user.fetch('/health/ready')).status).toBe(503);
  expect((await user.fetch('/health/live')).status).toBe(200);

  await wire.back();
  await until('the server to be ready', async () => (await user.fetch('/health/ready')).ok);
  const head = await user.fetch(upload, { method: 'HEAD', headers: tusHeaders });
  expect(head.headers.get('Upload-Offset')).toBe('3');
  expect((await patch(3, 'def')).status).toBe(204);
  const id = upload.split('/').at(-1) ?? '';
  expect(await user.settled(id)).toMatchObject({ status: 'completed', size: 6, attempts: 1 });
});

test('a stream of live events outlives an outage, and a new one is refused meanwhile', async () => {
  const stream = await openEvents(user, '?type=upload.created');
  try {
    await until('the place in the log', () => stream.lastId !== '');
    await wire.away();
    const answer = await user.fetch('/api/events');
    expect([answer.status, (await answer.json()).code]).toEqual([503, 'unavailable']);
    await wire.back();
    await until('the server to be ready', async () => (await user.fetch('/health/ready')).ok);
    const upload = await user.create(6);
    await stream.heard('upload.created', upload.replace('/uploads/', ''));
    expect(stream.events).toHaveLength(1);
  } finally {
    stream.close();
  }
});

test('a HEAD of an upload whose lease is free writes nothing', async () => {
  const upload = await user.create(6);
  await numbered();
  const from = wire.statements.length;
  const head = await user.fetch(upload, { method: 'HEAD', headers: tusHeaders });
  expect([head.status, head.headers.get('Upload-Offset')]).toEqual([200, '0']);
  const ofServer = wire.statements.slice(from).filter(({ application }) => application === 'landfall server');
  // The server may look for more events to number, and listen again after the outage before.
  const isAside = (text: string) => /^(START TRANSACTION|COMMIT)$|^LISTEN |event_inbox/.test(text);
  expect(ofServer.filter(({ text }) => !/^SELECT/.test(text) && !isAside(text))).toEqual([]);
});

test('a database that shuts down as connections come up ends no process', async () => {
  await wire.away();
  wire.endAsTheyCome(20);
  await wire.back();
  const statuses = new Set<number>();
  while (!statuses.has(200)) {
    const answers = await Promise.all(Array.from({ length: 5 }, () => user.fetch('/api/files')));
    for (const { status } of answers) statuses.add(status);
  }
  expect([...statuses].sort()).toEqual([200, 503]);
  const id = await user.upload(Buffer.from('after it'));
  expect(await user.settled(id)).toMatchObject({ status: 'completed' });
});

test.each([
  [
    'after it has begun',
    ({ application, text }: Statement) => application === 'landfall server' && text === 'START TRANSACTION',
  ],
  ['in its middle', ({ text }: Statement) => text.startsWith('INSERT INTO "api_keys"')],
])('a request that loses the database in a transaction, %s, gets 503', async (_when, isThere) => {
  await numbered();
  const pause = wire.pauseAt(isThere, 'after');
  const answer = user.fetch('/api/keys', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'a key', scopes: ['read'] }),
  });
  await pause.reached;
  pause.cut();
  expect((await answer).status).toBe(503);
  expect((await user.get('/api/keys')).items).toEqual([]);
});

test('a refusal is in the log when its answer comes, and no answer waits for a log that hangs', async () => {
  const other = await registerUser(() => processes.url);
  const id = await user.upload(Buffer.from('mine'));
  await user.settled(id);
  const countRefusals = async () =>
    (await eventsOf(processes.database, id)).filter((type) => type === 'access!').length;
  expect((await other.fetch(`/api/files/${id}`)).status).toBe(404);
  expect(await countRefusals()).toBe(1);

  const isRefusal = ({ text, parameters }: Statement) =>
    text.startsWith('INSERT INTO event_inbox') && parameters.some((value) => value?.includes('refused'));
  const pause = wire.pauseAt(isRefusal, 'before');
  const answer = await other.fetch(`/api/files/${id}`);
  await pause.reached;
  expect(answer.status).toBe(404);
  expect(await countRefusals()).toBe(1);
  pause.open();
  await until('the second line', async () => (await countRefusals()) === 2);
});

/** Whether a check of readiness asks this. */
const isCheck = ({ text }: Statement) => text.includes("current_setting('server_version')");

test('many simultaneous checks of readiness share one query to the database', async () => {
  const pause = wire.pauseAt(isCheck, 'before');
  const first = user.fetch('/health/ready');
  await pause.reached;
  const before = wire.statements.filter(isCheck).length;
  const others = Array.from({ length: 20 }, () => user.fetch('/health/ready'));
  // The checks have arrived once these later requests were answered, one after the other. They are few, because a check
  // waits for three seconds only.
  for (let i = 0; i < 5; i++) await fetch(`${processes.url}/health/live`);
  pause.open();
  for (const answer of await Promise.all([first, ...others])) expect(answer.status).toBe(200);
  expect(wire.statements.filter(isCheck).length - before).toBeLessThan(5);
});

test('a connection that hangs keeps a server unready for a moment only', async () => {
  const pause = wire.pauseAt(isCheck, 'before');
  const first = user.fetch('/health/ready');
  await pause.reached;
  expect((await first).status).toBe(503);
  expect((await user.fetch('/health/ready')).status).toBe(200);
  pause.cut();
});
