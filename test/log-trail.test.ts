import { mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { whenSomebodyWaitsFor } from './support/barrier.js';
import { registerUser, type TestUser } from './support/client.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* What server and worker write into their log files, and how an admin changes their level. */

// biome-ignore lint/suspicious/noExplicitAny: lines of all shapes
type Line = any;

const SLOW_MS = 2_000;

let dir: string;
let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'landfall-logs-'));
  const env = {
    LOG_LEVEL: 'info',
    LOG_DIR: dir,
    SLOW_REQUEST_MS: String(SLOW_MS),
    TRUST_PROXY: 'loopback',
  };
  processes = await startProcesses(env);
  admin = await registerUser(() => processes.url);
});
afterAll(async () => {
  await processes?.close();
  await rm(dir, { recursive: true, force: true });
});

/** The lines in the file of a process. Each must be whole. */
async function linesOf(name: string): Promise<Line[]> {
  // A line may just be on its way into the file.
  const text = await until('whole lines', async () => {
    const read = await readFile(join(dir, `${name}.log`), 'utf8');
    return read.endsWith('\n') && read;
  });
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

/** Waits until the log has such a line. */
const lineOf = (name: string, like: (line: Line) => unknown): Promise<Line> =>
  until(`a line of the ${name}`, async () => (await linesOf(name)).find(like));

/** The line of a request at its end. */
const requestOf = (id: string) => lineOf('server', ({ requestId, method }) => requestId === id && method);

test('one id leads from the request over the upload to the job, through both processes', async () => {
  const id = (await admin.create(3)).split('/').at(-1);
  const sent = await admin.tus(
    'PATCH',
    `/uploads/${id}`,
    { 'Upload-Offset': '0', 'X-Request-Id': 'the-last-one' },
    'abc',
  );
  expect(sent.headers.get('X-Request-Id')).toBe('the-last-one');
  await admin.settled(id ?? '');

  const begun = await lineOf('server', ({ uploadId, method }) => uploadId === id && method === 'POST');
  expect(begun).toMatchObject({ msg: 'request', path: '/uploads', status: 201, userId: admin.id });
  const patch = await lineOf('server', ({ uploadId, method }) => uploadId === id && method === 'PATCH');
  expect(patch).toMatchObject({ msg: 'request', requestId: 'the-last-one', status: 204 });
  const queued = await lineOf('server', ({ uploadId, jobId }) => uploadId === id && jobId);
  expect(queued).toMatchObject({ requestId: 'the-last-one', jobId: `${id}-1` });
  await lineOf('worker', ({ fileId, msg }) => fileId === id && msg === 'file completed');
  const worked = (await linesOf('worker')).filter(({ fileId }) => fileId === id);
  expect(worked.map(({ msg }) => msg)).toEqual(['attempt begins', 'file completed']);
  for (const line of worked) expect(line).toMatchObject({ requestId: 'the-last-one', jobId: `${id}-1` });
});

test('an id that is no id is replaced', async () => {
  const answer = await admin.fetch('/api/me', { headers: { 'X-Request-Id': 'a b<script>' } });
  expect(answer.headers.get('X-Request-Id')).toMatch(/^[0-9a-f-]{36}$/);
});

/** Sends a PATCH with a body of two bytes, with a pause between them. @returns the id of the request */
function patchSlowly(path: string, ms: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request(`${processes.url}${path}`, {
      method: 'PATCH',
      headers: {
        Authorization: `Bearer ${admin.token}`,
        'Tus-Resumable': '1.0.0',
        'Upload-Offset': '0',
        'Content-Type': 'application/offset+octet-stream',
        'Content-Length': 2,
      },
    });
    outgoing.once('error', reject).once('response', (answer) => {
      answer.resume();
      resolve(String(answer.headers['x-request-id']));
    });
    outgoing.write('a');
    setTimeout(() => outgoing.end('b'), ms);
  });
}

test('a request is slow when its client waits for the server, and not when the server waits for the client', async () => {
  const slowClient = patchSlowly(await admin.create(2), SLOW_MS * 1.5);
  const path = await admin.create(2);
  const locker = new pg.Client({ connectionString: processes.database.url });
  await locker.connect();
  try {
    await locker.query('BEGIN');
    await locker.query('SELECT FROM uploads WHERE id = $1 FOR UPDATE', [path.split('/').at(-1)]);
    const held = patchSlowly(path, 0);
    await whenSomebodyWaitsFor(processes.database, locker);
    await pause(SLOW_MS);
    await locker.query('ROLLBACK');
    const slow = await requestOf(await held);
    expect(slow).toMatchObject({
      level: 40,
      msg: 'slow request',
      route: '/uploads{/*path}',
      uploadId: path.split('/').at(-1),
      status: 204,
    });
    expect(slow.serverMs).toBeGreaterThanOrEqual(SLOW_MS);
    const line = await requestOf(await slowClient);
    expect(line).toMatchObject({ level: 30, msg: 'request', status: 204 });
    expect(line.ms).toBeGreaterThanOrEqual(SLOW_MS);
  } finally {
    await locker.end();
  }
});

/** The changes of its level that a process has logged. */
async function changesOf(name: string): Promise<string[]> {
  const lines = await linesOf(name);
  return lines.filter(({ from, to }) => from && to).map(({ from, to }) => `${from} ${to}`);
}

const setLevel = (body: object) =>
  admin.fetch('/api/admin/log-level', {
    method: 'PUT',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });

describe('the level', () => {
  test('is set by an admin in all processes, ends by itself, and is written to the event log', async () => {
    const answer = await setLevel({ level: 'debug', seconds: 5 });
    expect(answer.status).toBe(200);
    const { level, until: end } = await answer.json();
    expect(level).toBe('debug');
    expect(Date.parse(end)).toBeGreaterThan(Date.now() - 60_000);
    for (const name of ['server', 'worker']) {
      await until('both changes', async () => (await changesOf(name)).length === 2);
      expect(await changesOf(name)).toEqual(['info debug', 'debug info']);
    }
    expect(await admin.get('/api/admin/log-level')).toEqual({ level: null, until: null });
    const { items } = await admin.get('/api/admin/audit?type=log.level');
    expect(items).toMatchObject([{ data: { level: 'debug', seconds: 5 }, actor: { userId: admin.id } }]);
  });

  test('holds for a process that starts later, until an admin resets it', async () => {
    await setLevel({ level: 'error' });
    await processes.start('server-2', { LOG_DIR: join(dir, 'second') });
    const changes = () => changesOf('second/server');
    expect(await changes()).toEqual(['info error']);
    await setLevel({ level: null });
    await until('the level to be as before', async () => (await changes()).length === 2);
    expect(await changes()).toEqual(['info error', 'error info']);
    await processes.stop('server-2');
  });

  test.each<Part>(['server', 'worker'])('is debug between two SIGUSR2 (%s)', async (part) => {
    const before = (await changesOf(part)).length;
    for (const count of [1, 2]) {
      process.kill(processes.pid(part), 'SIGUSR2');
      await until('a change', async () => (await changesOf(part)).length === before + count);
    }
    expect((await changesOf(part)).slice(before)).toEqual(['info debug', 'debug info']);
  });
});

test('SIGTERM: the last lines are there, and whole', async () => {
  const asked = await Promise.all(
    Array.from({ length: 20 }, async () => (await admin.fetch('/api/me')).headers.get('X-Request-Id')),
  );
  expect([await processes.stop('server'), await processes.stop('worker')]).toEqual([0, 0]);
  const lines = await linesOf('server');
  const logged = new Set(lines.map(({ requestId }) => requestId));
  expect(asked.filter((id) => !logged.has(id))).toEqual([]);
  for (const name of ['server', 'worker']) {
    expect((await linesOf(name)).map(({ msg }) => msg)).toContain('shutting down');
  }
  expect(await readdir(dir)).toEqual(expect.arrayContaining(['server.log', 'worker.log']));
});

test('with a full disk the server starts, answers, and logs to stdout', async () => {
  const full = join(dir, 'full');
  await mkdir(full);
  // Each write to this device fails like one to a full disk.
  await symlink('/dev/full', join(full, 'server.log'));
  await processes.start('server', { LOG_DIR: full });
  const answer = await admin.fetch('/api/me');
  expect(answer.status).toBe(200);
  const id = answer.headers.get('X-Request-Id') ?? 'none';
  for (const said of [id, 'ENOSPC']) {
    await until('the line on stdout', () => processes.logOf('server').includes(said));
  }
});
