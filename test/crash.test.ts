import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants, readFileSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { promisify } from 'node:util';
import { expectBlobsInOrder, expectCompletedOnce, findFile, findUpload } from './support/aftermath.js';
import { type Barrier, closeBarrier } from './support/barrier.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { makeJpeg, makeSlowPng } from './support/fixtures.js';
import { letLeaseRunOut } from './support/leases.js';
import { ageUnreferenced, countUnreferenced, uploadPathOf } from './support/objects.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/** A dead worker is noticed after 15 s, a lost job after 30 s; then the job still has to run. */
const TAKEOVER_SECONDS = 150;

let processes: Processes;
let user: TestUser;

async function start(parts: Part[], env: Record<string, string> = {}): Promise<void> {
  processes = await startProcesses(env, parts);
  user = await registerUser(() => processes.url);
}

afterEach(() => processes.close());

/** Makes a small image that differs from all others. */
async function makeImage(extraBytes = 100): Promise<Buffer> {
  return Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(extraBytes)]);
}

async function countJobs(): Promise<number> {
  const { rows } = await processes.database.query('SELECT count(*)::integer AS count FROM bullmq.job');
  return rows[0].count;
}

/** Sends the whole content in one PATCH, and kills the server while it stands at the barrier. */
async function killServerAt(barrier: Barrier, path: string, content: Buffer): Promise<void> {
  const answer = user.tus('PATCH', path, { 'Upload-Offset': '0' }, content as BodyInit).catch(() => 'none');
  await barrier.reached();
  await processes.kill('server');
  await barrier.cut();
  expect(await answer).toBe('none');
}

describe('the server is killed', () => {
  test('between the last byte and the hook: the reconciler finishes the upload', async () => {
    await start(['server']);
    const content = await makeImage();
    const path = await user.create(content.length);
    const id = idOf(path);
    await killServerAt(await closeBarrier(processes.database, 'INSERT ON files'), path, content);
    expect(await findUpload(processes, id)).toMatchObject({ status: 'uploading', offset: content.length });
    expect(await findFile(processes, id)).toBeUndefined();

    await letLeaseRunOut(processes.database);
    await processes.start('worker');
    await until(
      'the file to be completed',
      async () => (await findFile(processes, id))?.status === 'completed',
    );
    await processes.start('server');
    await expectCompletedOnce(processes, user, id, content);
    expect(await findUpload(processes, id)).toMatchObject({ status: 'finished', offset: content.length });
    await expectBlobsInOrder(processes);
  });

  test('between the last byte and the hook: its client and the reconciler finish the upload only once', async () => {
    await start(['server']);
    const content = await makeImage();
    const path = await user.create(content.length);
    await killServerAt(await closeBarrier(processes.database, 'INSERT ON files'), path, content);

    await Promise.all([processes.start('server'), processes.start('worker')]);
    const end = { 'Upload-Offset': String(content.length) };
    const answers = await Promise.all([user.tus('PATCH', path, end), user.tus('PATCH', path, end)]);
    expect(answers.map((answer) => answer.status)).toEqual([204, 204]);
    await expectCompletedOnce(processes, user, idOf(path), content);
    await expectBlobsInOrder(processes);
  });

  test('between the commit and the queue: the relay adds the job', async () => {
    await start(['server']);
    const content = await makeImage();
    const path = await user.create(content.length);
    const id = idOf(path);
    await killServerAt(await closeBarrier(processes.database, 'INSERT ON bullmq.job'), path, content);
    expect(await findFile(processes, id)).toMatchObject({ status: 'pending', run: 1 });
    expect(await countJobs()).toBe(0);

    await Promise.all([processes.start('server'), processes.start('worker')]);
    await expectCompletedOnce(processes, user, id, content);
    expect(await countJobs()).toBe(1);
    await expectBlobsInOrder(processes);
  });

  test('in the middle of a body: durable bytes stay, and the client continues behind them', async () => {
    await start(['server', 'worker']);
    const content = randomBytes(100 * 1024 ** 2);
    const sent = 80 * 1024 ** 2;
    const path = await user.create(content.length);
    // The body stands still before its end: the connection breaks only because the server dies.
    const body = new ReadableStream({
      type: 'bytes',
      start: (controller) => controller.enqueue(new Uint8Array(content.subarray(0, sent))),
    });
    const answer = user.tus('PATCH', path, { 'Upload-Offset': '0' }, body).catch(() => 'none');
    const durable = await until(
      'a part of the body to be durable',
      async () => (await findUpload(processes, idOf(path)))?.offset,
    );
    await processes.kill('server');
    expect(await answer).toBe('none');

    await processes.start('server');
    const head = await user.tus('HEAD', path);
    const offset = Number(head.headers.get('Upload-Offset'));
    expect(offset).toBeGreaterThanOrEqual(durable);
    expect(offset).toBeLessThanOrEqual(sent);
    const id = await user.tusUpload(content, { uploadUrl: `${processes.url}${path}` });
    expect(id).toBe(idOf(path));
    await expectCompletedOnce(processes, user, id, content);
    await expectBlobsInOrder(processes);
  });
});

describe('the worker', () => {
  const STOPPED_AT: Record<string, (id: string) => [statement: string, when: string]> = {
    'the beginning': (id) => ['UPDATE ON files', `NEW.id = '${id}' AND OLD.status = 'pending'`],
    'the end of the one read': (id) => ['UPDATE ON files', reachesStep(id, 'verify')],
    'the end of metadata': (id) => ['UPDATE ON files', reachesStep(id, 'metadata')],
    'the end of thumbnails': (id) => ['UPDATE ON files', reachesStep(id, 'thumbnails')],
    'the end of all': (id) => ['UPDATE ON files', `NEW.id = '${id}' AND NEW.status = 'completed'`],
    'the end of the job': (id) => [
      'UPDATE ON bullmq.job',
      `NEW.data ->> 'fileId' = '${id}' AND NEW.state = 'completed'`,
    ],
  };

  test('is killed in every step: each file is completed exactly once', async () => {
    await start(['server'], { WORKER_CONCURRENCY: '8' });
    const files = await Promise.all(
      Object.values(STOPPED_AT).map(async (point) => {
        const content = await makeImage();
        const id = await user.upload(content, { filename: 'photo.jpg' });
        return { content, id, barrier: await closeBarrier(processes.database, ...point(id)) };
      }),
    );
    // One more file is being decoded at the kill, which takes seconds. It may begin once the others stand
    // still.
    const slow = await makeSlowPng();
    const slowId = await user.upload(slow, { filename: 'slow.png' });
    const barrier = await closeBarrier(
      processes.database,
      'UPDATE ON files',
      reachesStep(slowId, 'metadata'),
    );
    await processes.start('worker');
    await Promise.all([...files, { barrier }].map((file) => file.barrier.reached()));
    await barrier.open();
    await until('decoding', async () => (await findFile(processes, slowId)).step === 'thumbnails');
    const parsers = await listChildren(processes.pid('worker'));
    expect(parsers.length).toBeGreaterThan(0);
    const spentBefore = secondsSpent(parsers);
    await processes.kill('worker');
    let spent = spentBefore;
    await until('the parsers to be gone', async () => {
      spent = Math.max(spent, secondsSpent(parsers));
      return (await listAlive(parsers)).length === 0;
    });
    // The parsers ended because the worker died, not because they had finished.
    expect(spent - spentBefore).toBeLessThan(1);
    await Promise.all(files.map((file) => file.barrier.cut()));

    await processes.start('worker');
    for (const { id, content } of [...files, { id: slowId, content: slow }]) {
      await expectCompletedOnce(processes, user, id, content, TAKEOVER_SECONDS);
    }
    await expectBlobsInOrder(processes);
    expect(await countUnreferenced(processes)).toBe(3);

    await processes.stop('worker');
    await ageUnreferenced(processes);
    await processes.start('worker');
    await until(
      'thumbnails that nothing refers to to be swept',
      async () => (await countUnreferenced(processes)) === 0,
    );
    await expectBlobsInOrder(processes);
  });

  test('stands still for longer than its locks: another takes over, the first changes nothing', async () => {
    await start(['server']);
    const { database } = processes;
    const files = await Promise.all(
      ['in its read', 'in a transaction', 'between two statements'].map(async (name) => {
        const content = await makeImage();
        return { id: await user.upload(content, { filename: `${name}.jpg` }), content };
      }),
    );
    const [read, transaction] = files.map(({ id }) => id);
    // A pipe in the object's place makes its reader stand still.
    const path = await uploadPathOf(processes, read ?? '');
    await rename(path, `${path}.kept`);
    await promisify(execFile)('mkfifo', [path]);
    const barriers = [
      await closeBarrier(database, 'UPDATE ON files', reachesStep(transaction ?? '', 'metadata')),
      await closeBarrier(database, 'INSERT ON blobs'),
    ];
    await processes.start('worker');
    const pipe = await until('the file to be read', () =>
      open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
    );
    await Promise.all(barriers.map((barrier) => barrier.reached()));
    process.kill(processes.pid('worker'), 'SIGSTOP');
    await Promise.all(barriers.map((barrier) => barrier.open()));
    const other = await closeBarrier(database, 'INSERT ON blobs');
    try {
      await rename(`${path}.kept`, path);
      await processes.start('worker-2');
      await other.reached(files.length, TAKEOVER_SECONDS);
      await pipe.writeFile(files[0]?.content ?? '');
    } finally {
      await pipe.close();
      process.kill(processes.pid('worker'), 'SIGCONT');
    }
    // The worker ends once it is done with its jobs, while the other is still in the middle of them.
    const exitCode = await processes.stop('worker');
    await other.open();
    for (const { id, content } of files) await expectCompletedOnce(processes, user, id, content);
    await expectBlobsInOrder(processes);
    expect(exitCode).toBe(0);
  });
});

function reachesStep(id: string, step: string): string {
  return `NEW.id = '${id}' AND NEW.steps ? '${step}' AND NOT OLD.steps ? '${step}'`;
}

async function listChildren(pid: number): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=']);
  const children = stdout.split('\n').map((line) => line.trim().split(/\s+/));
  return children.filter(([, parent]) => parent === String(pid)).map(([child = '']) => child);
}

/** CPU seconds of those processes that still run. */
function secondsSpent(pids: string[]): number {
  return pids.reduce((sum, pid) => {
    try {
      // proc_pid_stat(5): from the state on, which follows the name in brackets; utime and stime in hundredths.
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
      return sum + (Number(fields[11]) + Number(fields[12])) / 100;
    } catch {
      return sum;
    }
  }, 0);
}

/** The processes that still run; zombies do not count. */
async function listAlive(pids: string[]): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,stat=']);
  const alive = stdout.split('\n').map((line) => line.trim().split(/\s+/));
  return alive
    .filter(([pid = '', stat = 'Z']) => pids.includes(pid) && !stat.startsWith('Z'))
    .map(([pid = '']) => pid);
}

test('server and workers are killed again and again under twenty uploads: every one is completed exactly once', async () => {
  await start(['server', 'worker']);
  const contents = await Promise.all(
    Array.from({ length: 20 }, async (_, index) =>
      index % 2 ? randomBytes(2 * 1024 ** 2 + index) : await makeImage(1.5 * 1024 ** 2),
    ),
  );
  const acknowledged = new Map<string, number[]>();
  const total = contents.reduce((sum, content) => sum + content.length, 0);
  const received = () => [...acknowledged.values()].reduce((sum, offsets) => sum + (offsets.at(-1) ?? 0), 0);
  const uploads = contents.map((content, index) =>
    user.tusUpload(content, {
      chunkSize: 256 * 1024,
      retryDelays: Array(500).fill(200),
      metadata: { filename: `${index}.jpg` },
      onAfterResponse(request, response) {
        const offset = response.getHeader('Upload-Offset');
        if (!offset || response.getStatus() >= 300) return;
        const id = idOf(request.getURL());
        acknowledged.set(id, [...(acknowledged.get(id) ?? []), Number(offset)]);
      },
    }),
  );

  // Each kill comes when a random share of all bytes has been acknowledged.
  const moments = Array.from({ length: 7 }, () => Math.random() * 0.9).sort((a, b) => a - b);
  for (const [index, moment] of moments.entries()) {
    await until(`${moment} of the bytes to be here`, () => received() > moment * total);
    const part = index === 2 || index === 5 ? 'worker' : 'server';
    await processes.kill(part);
    await processes.start(part);
  }

  const ids = await Promise.all(uploads);
  expect(new Set(ids).size).toBe(contents.length);
  for (const [index, id] of ids.entries()) {
    await expectCompletedOnce(processes, user, id, contents[index] ?? Buffer.alloc(0), TAKEOVER_SECONDS);
    const offsets = acknowledged.get(id) ?? [];
    expect(offsets.at(-1)).toBe(contents[index]?.length);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
  }
  await expectBlobsInOrder(processes);
});
