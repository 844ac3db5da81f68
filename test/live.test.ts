import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { registerUser, type TestUser } from './support/client.js';
import { type EventStream, type LiveEvent, openEvents } from './support/event-stream.js';
import { type Processes, startProcesses } from './support/processes.js';
import { Random } from './support/random.js';
import { formRequest } from './support/raw-http.js';
import { problemOf } from './support/sign-in.js';
import { until } from './support/until.js';

/*
 * Live events: whoever reconnects, to whichever server, gets each event of the own uploads and files once and in order.
 */

let processes: Processes;
let user: TestUser;
let other: TestUser;
/** The same user on the second server. */
let second: TestUser;
const open: EventStream[] = [];

beforeAll(async () => {
  processes = await startProcesses({ RATE_LIMIT_UPLOADS: '0' }, ['server', 'server-2', 'worker']);
  user = await registerUser(() => processes.url);
  other = await registerUser(() => processes.url);
  second = user.at(() => processes.urlOf('server-2'));
});
afterEach(() => {
  for (const stream of open.splice(0)) stream.close();
});
afterAll(() => processes?.close());

async function listen(...args: Parameters<typeof openEvents>): Promise<EventStream> {
  const stream = await openEvents(...args);
  open.push(stream);
  expect(stream.answer.status).toBe(200);
  return stream;
}

/** The numbers of all events of a user's uploads and files, as they stand in the log. */
async function logOf(who: TestUser): Promise<number[]> {
  const { rows } = await processes.database.query(
    `SELECT seq::integer FROM events WHERE owner_id = $1 AND result = 'ok' AND type ~ '^(upload|file)\\.' ORDER BY seq`,
    [who.id],
  );
  return rows.map(({ seq }) => seq);
}

const seqsOf = (events: LiveEvent[]) => events.map(({ seq }) => seq);

/** Waits until all events so far have numbers. */
async function numbered(): Promise<void> {
  await until('all events to be numbered', async () => {
    const { rows } = await processes.database.query('SELECT FROM event_inbox LIMIT 1');
    return rows.length === 0;
  });
}

test('a stream tells what happens to a file, as its timeline does, and nothing of other users', async () => {
  const [mine, theirs] = [await listen(user), await listen(other)];
  const id = await user.upload(randomBytes(1000), { filename: 'a.bin' });
  await mine.heard('file.completed', id);
  const { items } = await user.get(`/api/files/${id}/events`);
  expect(mine.events).toEqual(items);
  expect(mine.events.map(({ type }) => type)).toEqual(
    expect.arrayContaining([
      'upload.created',
      'file.created',
      'file.processing',
      'file.step',
      'file.completed',
    ]),
  );
  for (const event of mine.events) {
    expect(Object.keys(event)).toEqual(['seq', 'type', 'subjectId', 'data', 'createdAt']);
  }
  expect(mine.lastId).toBe(String(mine.events.at(-1)?.seq));

  const foreign = await other.upload(randomBytes(10));
  await theirs.heard('file.completed', foreign);
  expect(theirs.events.every(({ subjectId }) => subjectId === foreign)).toBe(true);
  expect(mine.events).toHaveLength(items.length);
});

test('no proxy may keep, compress or gather a stream, and HEAD shows so', async () => {
  const { answer } = await listen(user);
  const head = await user.fetch('/api/events', { method: 'HEAD' });
  for (const { headers, status } of [answer, head]) {
    expect(status).toBe(200);
    expect(headers.get('Content-Type')).toBe('text/event-stream');
    expect(headers.get('Cache-Control')).toBe('no-store, no-transform');
    expect(headers.get('X-Accel-Buffering')).toBe('no');
  }
});

test('a client that comes back again and again, now here, now there, gets each event once', async () => {
  const random = new Random(Number(process.env.TEST_SEED ?? 1));
  let running = true;
  let commits = 0;
  /** Appends events in transactions of any duration, so that numbers do not follow the order of the inserts. */
  const write = async () => {
    while (running) {
      const seconds = random.next() / 10;
      await processes.database.query(
        `WITH inserted AS (
           INSERT INTO event_inbox (type, subject_id, owner_id, data)
           SELECT 'file.processing', $1, owner, '{"run": 1}' FROM unnest($2::uuid[]) AS owner, generate_series(1, $3)
           RETURNING 1
         ) SELECT pg_sleep($4) FROM (SELECT count(*) FROM inserted) AS counted`,
        [user.id, [user.id, other.id], random.whole(1, 80), seconds],
      );
      commits++;
    }
  };
  const number = async () => {
    while (running) await (random.chance(0.5) ? user : second).create(10);
  };
  const first = await listen(user);
  await until('the place in the log', () => first.lastId !== '');
  let { lastId } = first;
  const started = Number(lastId);
  first.close();
  const writers = [write(), write(), write(), number()];
  const heard: LiveEvent[] = [];
  for (let visit = 0; visit < 40 || commits <= 20; visit++) {
    const stream = await listen(random.chance(0.5) ? user : second, '', { 'Last-Event-ID': lastId });
    const wanted = random.whole(0, 400);
    await until('some events', () => stream.events.length >= wanted || stream.lastId !== lastId);
    stream.close();
    await until('the end', () => stream.end);
    heard.push(...stream.events);
    ({ lastId } = stream);
  }
  running = false;
  await Promise.all(writers);
  await user.create(10);
  await numbered();
  const all = (await logOf(user)).filter((seq) => seq > started);
  const last = await listen(second, '', { 'Last-Event-ID': lastId });
  await until('the last event', () => last.lastId === String(all.at(-1)));
  heard.push(...last.events);
  expect(seqsOf(heard)).toEqual(all);
});

test('an event id is good for weeks: `after=0` and old ids bring all that came later', async () => {
  await numbered();
  const all = await logOf(user);
  const whole = await listen(user, '?after=0');
  await until('all events', () => whole.events.length >= all.length);
  expect(seqsOf(whole.events)).toEqual(all);
  // The header of a client that comes back counts more than the address with which it came first.
  const middle = String(all[Math.floor(all.length / 2)]);
  const half = await listen(second, '?after=0', { 'Last-Event-ID': middle });
  await until('half of them', () => half.lastId === String(all.at(-1)));
  expect(seqsOf(half.events)).toEqual(all.filter((seq) => seq > Number(middle)));
});

test('an id that is not in the log is refused in words', async () => {
  const { rows } = await processes.database.query('SELECT seq::integer FROM event_head');
  const future = String(rows[0].seq + 1_000_000);
  for (const [query, headers] of [
    [`?after=${future}`, {}],
    ['', { 'Last-Event-ID': future }],
  ] as const) {
    const answer = await user.fetch(`/api/events${query}`, { headers });
    expect(await problemOf(answer)).toEqual([410, 'gone']);
  }
  for (const wrong of ['x', '-1', '1.5', '9'.repeat(16), '1e3']) {
    const answers = [
      await user.fetch(`/api/events?after=${wrong}`),
      await user.fetch('/api/events', { headers: { 'Last-Event-ID': wrong } }),
    ];
    for (const answer of answers) expect(await problemOf(answer)).toEqual([400, 'invalid_request']);
  }
});

test('a stream can be of some files, and of some types', async () => {
  const [one, two] = [await user.upload(randomBytes(10)), await user.upload(randomBytes(10))];
  const foreign = await other.upload(randomBytes(10));
  const all = await listen(user, '?after=0');
  await Promise.all([one, two].map((id) => all.heard('file.completed', id)));
  const subjects = ({ events }: EventStream) => new Set(events.map(({ subjectId }) => subjectId));
  const kinds = ({ events }: EventStream) => new Set(events.map(({ type }) => type));

  const ofTwo = await listen(user, `?after=0&file=${one},${two.toUpperCase()}`);
  const completed = await listen(user, `?after=0&file=${one}&type=file.completed,upload.*`);
  const theirs = await listen(user, `?after=0&file=${foreign}`);
  await Promise.all([one, two].map((id) => ofTwo.heard('file.completed', id)));
  await completed.heard('file.completed', one);
  expect(subjects(ofTwo)).toEqual(new Set([one, two]));
  expect(subjects(completed)).toEqual(new Set([one]));
  expect(kinds(completed)).toEqual(new Set(['upload.created', 'file.completed']));

  // The same holds for what comes later.
  expect((await user.fetch(`/api/files/${one}`, { method: 'DELETE' })).status).toBe(204);
  expect((await other.fetch(`/api/files/${foreign}`, { method: 'DELETE' })).status).toBe(204);
  const { seq } = await all.heard('file.deleted', one);
  await ofTwo.heard('file.deleted', one);
  // A stream that sent nothing of it tells the place all the same.
  const later = await listen(user, `?after=${seq - 1}&type=file.failed`);
  await until('the place in the log', () => Number(later.lastId) >= seq);
  expect([kinds(completed).has('file.deleted'), theirs.events, later.events]).toEqual([false, [], []]);

  for (const query of ['type=file.compleet', 'type=auth.*', 'type=', 'file=x', 'file=', 'nothing=1']) {
    expect(await problemOf(await user.fetch(`/api/events?${query}`))).toEqual([400, 'invalid_request']);
  }
});

test('a reader that is slow costs the server no memory, holds up nobody, and gets all in the end', async () => {
  const count = 20_000;
  const slowUser = await registerUser(() => processes.url);
  const quick = await listen(slowUser);
  const { hostname, port } = new URL(processes.url);
  const slow = connect(Number(port), hostname);
  slow.write(formRequest('GET', '/api/events?after=0', { Authorization: `Bearer ${slowUser.token}` }));
  // It reads the beginning of the answer, and nothing more for now.
  let text = String(await once(slow, 'data').then(([chunk]) => chunk));
  slow.pause();
  const before = memoryOf(processes.pid('server'));
  // Together they have some 40 MB.
  await processes.database.query(
    `INSERT INTO event_inbox (type, subject_id, owner_id, data)
     SELECT 'file.processing', $1, $1, jsonb_build_object('run', n, 'error', repeat('x', 1700)) FROM generate_series(1, $2) AS n`,
    [slowUser.id, count],
  );
  await slowUser.create(10);
  await until('the quick reader', () => quick.events.length > count);
  expect(memoryOf(processes.pid('server')) - before).toBeLessThan(120 * 1024 ** 2);

  slow.setEncoding('latin1').on('data', (chunk) => {
    text += chunk;
  });
  slow.resume();
  const last = `id: ${quick.lastId}\n`;
  await until('the slow reader', () => text.slice(-2000).includes(last));
  slow.destroy();
  const ids = [...text.matchAll(/id: (\d+)\ndata/g)].map(([, id]) => Number(id));
  expect(ids).toEqual(seqsOf(quick.events));
});

/** Resident memory in bytes. */
function memoryOf(pid: number): number {
  const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

test('a stream without events sends comments, so that no proxy takes it for dead', async () => {
  const quiet = await listen(await registerUser(() => processes.url));
  await until('two comments', () => quiet.comments.length >= 2);
  expect(quiet.events).toEqual([]);
});

test('a server that stops ends its streams, and their clients go on at another one', async () => {
  const stream = await listen(second);
  const before = await second.create(10);
  await stream.heard('upload.created', before.replace('/uploads/', ''));
  const stopped = processes.stop('server-2');
  await until('the end', () => stream.end);
  expect(stream.end).toBe('ended');
  expect(stream.retries.length).toBeGreaterThan(1);
  for (const retry of stream.retries) expect(retry).toBeGreaterThan(0);
  const after = await user.create(10);
  const next = await listen(user, '', { 'Last-Event-ID': stream.lastId });
  await next.heard('upload.created', after.replace('/uploads/', ''));
  expect(next.events).toHaveLength(1);
  expect(await stopped).toBe(0);
  await processes.start('server-2');
});
