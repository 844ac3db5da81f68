import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import type { DataSource } from 'typeorm';
import { openDatabase } from '../core/database/data-source.js';
import { failFile } from '../core/files/status.js';
import { createLogger } from '../core/log.js';
import type { ProcessingJob } from '../core/queue/job.js';
import { type JobState, openQueue, type ProcessingQueue } from '../core/queue/queue.js';
import { createRelay, relayJobs } from '../worker/passes/relay.js';
import {
  expectBlobsInOrder,
  expectCompletedOnce,
  findFile,
  findUpload,
  timeline,
} from './support/aftermath.js';
import { closeBarrier, WAITING_FOR_LOCKS } from './support/barrier.js';
import { idOf, registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { listKeys } from './support/folder.js';
import {
  ageUnreferenced,
  countUnreferenced,
  listBlobs,
  storageKeyOf,
  uploadPathOf,
} from './support/objects.js';
import { type Part, type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';
import { makeDue } from './support/uploads.js';

/** A dead worker is noticed after 15 s, a lost job after 30 s; then the job still has to run. */
const TAKEOVER_SECONDS = 150;

const log = createLogger('silent', 'test');

let processes: Processes;
let user: TestUser;

async function start(parts: Part[], env: Record<string, string> = {}): Promise<void> {
  processes = await startProcesses(env, parts);
  user = await registerUser(() => processes.url);
}

afterEach(() => processes.close());

/** Makes a small image that differs from all others. */
async function makeImage(): Promise<Buffer> {
  return Buffer.concat([await makeJpeg({ width: 1400, height: 900 }), randomBytes(100)]);
}

async function uploadImage(): Promise<{ id: string; content: Buffer }> {
  const content = await makeImage();
  return { content, id: await user.upload(content, { filename: 'photo.jpg' }) };
}

/** Begins an upload of 1000 bytes, or of unknown length, and sends 400 of them. Returns its id. */
async function uploadPart(length: number | null = 1000): Promise<string> {
  const path = await user.create(length);
  const answer = await user.tus('PATCH', path, { 'Upload-Offset': '0' }, randomBytes(400));
  expect(answer.status).toBe(204);
  return idOf(path);
}

async function setUpload(id: string, assignments: string): Promise<void> {
  await processes.database.query(`UPDATE uploads SET ${assignments} WHERE id = $1`, [id]);
}

async function setJob(id: string, assignments: string): Promise<void> {
  const changed = await processes.database.query(
    `UPDATE bullmq.job SET lock_token = NULL, locked_until_ms = NULL, ${assignments} WHERE data ->> 'fileId' = $1`,
    [id],
  );
  expect(changed.rowCount).toBe(1);
}

/** Whether the bytes of this upload are stored. */
async function isStored(id: string): Promise<boolean> {
  return (await listKeys(processes.dataDir)).includes(await storageKeyOf(processes, id));
}

describe('jobs', () => {
  test('a queue that has lost everything gets its jobs again', async () => {
    await start(['server']);
    const files = [await uploadImage(), await uploadImage()];
    await processes.database.query('TRUNCATE bullmq.job CASCADE');
    await processes.start('worker');
    for (const { id, content } of files) await expectCompletedOnce(processes, user, id, content);
    await expectBlobsInOrder(processes);
  });

  test('a file whose workers have died too often fails before its job does', async () => {
    await start(['server']);
    const { id } = await uploadImage();
    await setJob(id, 'stalled_count = 11');
    await processes.start('worker');
    expect(await user.settled(id)).toMatchObject({
      status: 'failed',
      error: { code: 'internal', detail: expect.stringMatching(/interrupted/) },
    });
  });

  test('a file in processing gets a new job for a lost or done one, and fails for a failed one', async () => {
    await start(['server']);
    const [lost, done, failed] = [await uploadImage(), await uploadImage(), await uploadImage()];
    const barrier = await closeBarrier(processes.database, 'UPDATE ON files', `NEW.steps ? 'verify'`);
    await processes.start('worker');
    await barrier.reached(3);
    await processes.kill('worker');
    await barrier.cut();
    await processes.database.query(`DELETE FROM bullmq.job WHERE data ->> 'fileId' = $1`, [lost.id]);
    const finished = `finished_at_ms = extract(epoch FROM now()) * 1000`;
    await setJob(done.id, `state = 'completed', ${finished}`);
    await setJob(failed.id, `state = 'failed', ${finished}`);

    await processes.start('worker');
    for (const { id, content } of [lost, done]) {
      await expectCompletedOnce(processes, user, id, content, TAKEOVER_SECONDS);
    }
    expect(await findFile(processes, lost.id)).toMatchObject({ run: 1 });
    expect(await findFile(processes, done.id)).toMatchObject({ run: 2 });
    const file = await user.settled(failed.id);
    expect(file).toMatchObject({
      status: 'failed',
      error: { step: 'verify', code: 'internal', detail: 'The processing was interrupted too often' },
    });
    expect((await timeline(processes, failed.id)).filter((type) => type === 'file.failed')).toHaveLength(1);
    await expectBlobsInOrder(processes);
  });

  describe('relay', () => {
    let database: DataSource;
    let added: ProcessingJob[];

    function queueThat(getState: (job: ProcessingJob) => Promise<JobState>): ProcessingQueue {
      added = [];
      const add = async (...jobs: ProcessingJob[]) => void added.push(...jobs);
      const countOpen = async () => 0;
      // The relay calls no others.
      return { getState, countOpen, add } as unknown as ProcessingQueue;
    }

    beforeEach(async () => {
      await start(['server']);
      database = await openDatabase(processes.database.url, 'test');
    });
    afterEach(() => database.destroy());

    test('leaves alone a job that waits, and adds one that is missing', async () => {
      const { id } = await uploadImage();
      const queue = openQueue({
        databaseUrl: processes.database.url,
        redisUrl: undefined,
        attempts: 1,
        backoffMs: 10,
        log,
      });
      try {
        expect(await relayJobs({ database, queue, log })).toBe(0);
        await queue.bull.remove(`${id}-1`);
        expect(await queue.getState({ fileId: id, run: 1 })).toBe('missing');
        expect(await relayJobs({ database, queue, log })).toBe(1);
        expect(await queue.getState({ fileId: id, run: 1 })).toBe('open');
      } finally {
        await queue.close();
      }
    });

    test('looks at files once, then only if the queue has fewer jobs than files, or is back', async () => {
      const files = [await uploadImage(), await uploadImage(), await uploadImage()];
      // The relay skips younger files, which may be about to get their jobs.
      await processes.database.query(`UPDATE files SET created_at = now() - interval '1 minute'`);
      const asked: string[] = [];
      let open = files.length;
      let comeBack = () => {};
      const queue: ProcessingQueue = {
        ...queueThat(async ({ fileId }) => {
          asked.push(fileId);
          return fileId === files[0]?.id && open < files.length ? 'missing' : 'open';
        }),
        countOpen: async () => open,
        onBack: (listener) => {
          comeBack = listener;
        },
      };
      const relay = createRelay({ database, queue, log });
      expect(await relay()).toBe(0);
      expect(asked.splice(0)).toHaveLength(3);
      expect(await relay()).toBe(0);
      expect(asked).toEqual([]);
      open--;
      expect(await relay()).toBe(1);
      expect(asked.splice(0)).toHaveLength(3);
      expect(added).toEqual([
        {
          fileId: files[0]?.id,
          run: 1,
          priority: 0,
          size: expect.any(Number),
          requestId: expect.any(String),
        },
      ]);
      open++;
      comeBack();
      expect(await relay()).toBe(0);
      expect(asked).toHaveLength(3);
    });

    test('adds the jobs of other files when a file ends meanwhile', async () => {
      const [ending, other] = [await uploadImage(), await uploadImage()];
      const queue = queueThat(async (job) => {
        if (job.fileId !== ending.id) return 'missing';
        const { owner_id: ownerId, ...row } = await findFile(processes, ending.id);
        const problem = { step: 'verify', code: 'internal', detail: 'It was' };
        await failFile(database, { ownerId, ...row }, problem);
        return 'failed';
      });
      expect(await relayJobs({ database, queue, log })).toBe(1);
      expect(added).toEqual([
        { fileId: other.id, run: 1, priority: 0, size: expect.any(Number), requestId: expect.any(String) },
      ]);
      expect((await findFile(processes, ending.id)).error.detail).toBe('It was');
    });
  });
});

describe('connections to the database are cut', () => {
  async function cutConnections(): Promise<void> {
    await processes.database.query(
      `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name <> 'test'`,
    );
  }

  test('in the middle of an upload and of its processing: no process dies, and both go on', async () => {
    await start(['server', 'worker']);
    const pids = [processes.pid('server'), processes.pid('worker')];
    const content = randomBytes(4 * 1024 ** 2);
    const offsets: number[] = [];
    const upload = user.tusUpload(content, {
      chunkSize: 256 * 1024,
      onAfterResponse: (_request, response) => {
        const offset = response.getHeader('Upload-Offset');
        if (offset && response.getStatus() < 300) offsets.push(Number(offset));
      },
    });
    for (const share of [0.2, 0.4, 0.6]) {
      await until('some chunks to be here', () => (offsets.at(-1) ?? 0) > share * content.length);
      await cutConnections();
    }
    const id = await upload;
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));

    const image = await makeImage();
    const barrier = await closeBarrier(processes.database, 'UPDATE ON files', `NEW.steps ? 'metadata'`);
    const imageId = await user.upload(image, { filename: 'photo.jpg' });
    await barrier.reached();
    await cutConnections();
    await barrier.open();
    await expectCompletedOnce(processes, user, id, content, TAKEOVER_SECONDS);
    await expectCompletedOnce(processes, user, imageId, image, TAKEOVER_SECONDS);
    expect([processes.pid('server'), processes.pid('worker')]).toEqual(pids);
    expect((await user.fetch('/health/ready')).status).toBe(200);
    await expectBlobsInOrder(processes);
  });
});

describe('uploads', () => {
  test('a file that is deleted for good while a step is recorded leaves nothing behind', async () => {
    await start(['server', 'worker']);
    const barrier = await closeBarrier(processes.database, 'INSERT ON derivatives');
    const id = await user.upload(await makeImage(), { filename: 'photo.jpg' });
    await barrier.reached();
    const deletion = user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' });
    await until('the deletion to wait for the step', async () => {
      const { rows } = await processes.database.query(
        `${WAITING_FOR_LOCKS} AND query LIKE '%files%FOR UPDATE%'`,
      );
      return rows.length > 0;
    });
    await barrier.open();
    expect((await deletion).status).toBe(204);
    expect(await listBlobs(processes)).toEqual([]);
    await expectBlobsInOrder(processes);
  });

  test('expired uploads are removed, but complete ones become files', async () => {
    await start(['server']);
    const [expired, complete, young] = [await uploadPart(), await uploadPart(null), await uploadPart()];
    await setUpload(expired, `expires_at = now() - interval '1 second'`);
    await setUpload(complete, `length = "offset", expires_at = now() - interval '1 second'`);
    await processes.start('worker');

    await until('the bytes to be discarded', async () => (await findUpload(processes, expired)).discarded_at);
    expect((await findUpload(processes, expired)).status).toBe('expired');
    expect(await isStored(expired)).toBe(false);
    expect(await timeline(processes, expired)).toEqual(['upload.created', 'upload.expired']);
    expect((await user.tus('HEAD', `/uploads/${expired}`)).status).toBe(410);
    expect((await user.settled(complete)).status).toBe('completed');
    expect((await findUpload(processes, young)).status).toBe('uploading');
    expect(await isStored(young)).toBe(true);
    await expectBlobsInOrder(processes);
  });

  test('the worker finishes a termination that was interrupted', async () => {
    await start(['server']);
    const id = await uploadPart();
    const barrier = await closeBarrier(
      processes.database,
      'UPDATE ON uploads',
      'NEW.discarded_at IS NOT NULL',
    );
    const answer = user.tus('DELETE', `/uploads/${id}`).catch(() => 'none');
    await barrier.reached();
    await processes.kill('server');
    await barrier.cut();
    expect(await answer).toBe('none');
    expect(await findUpload(processes, id)).toMatchObject({ status: 'terminated', discarded_at: null });
    // The bytes too are put back, as if the termination had not yet deleted them.
    await writeFile(await uploadPathOf(processes, id), 'left');

    await Promise.all([processes.start('server'), processes.start('worker')]);
    await until('the bytes to be discarded', async () => (await findUpload(processes, id)).discarded_at);
    expect(await isStored(id)).toBe(false);
    expect((await user.tus('HEAD', `/uploads/${id}`)).status).toBe(410);
    expect(await timeline(processes, id)).toEqual(['upload.created', 'upload.terminated']);
  });

  test('the worker finishes an interrupted deletion, and keeps blobs that may still be in use', async () => {
    await start(['server', 'worker']);
    const { id, content } = await uploadImage();
    await expectCompletedOnce(processes, user, id, content);
    const barrier = await closeBarrier(processes.database, 'DELETE ON blobs');
    const answer = user.tus('DELETE', `/uploads/${id}`).catch(() => 'none');
    await barrier.reached();
    await processes.kill('server');
    await barrier.cut();
    expect(await answer).toBe('none');
    expect(await countUnreferenced(processes)).toBe(4);

    await processes.stop('worker');
    // This is the row of a worker that is about to store these bytes, or that died before it did.
    await processes.database.query(
      `INSERT INTO blobs (id, key, size, created_at) VALUES (gen_random_uuid(), gen_random_uuid(), 1, now() - interval '59 minutes')`,
    );
    await processes.start('worker');
    await until('the blobs of the file to be swept', async () => (await countUnreferenced(processes)) === 1);
    expect(await listKeys(processes.dataDir)).toEqual([]);
    await processes.stop('worker');
    await ageUnreferenced(processes);
    await processes.start('worker');
    await until('the last blob to be swept', async () => (await countUnreferenced(processes)) === 0);
  });

  describe('an object that cannot be touched does not hold up other uploads', () => {
    /** Puts a folder in the object's place, which can be neither written to nor deleted. */
    async function makeUntouchable(id: string): Promise<void> {
      const path = await uploadPathOf(processes, id);
      await rm(path);
      await mkdir(path);
    }

    test('when they are finished', async () => {
      await start(['server']);
      const [first, second] = [await uploadPart(), await uploadPart()];
      await processes.database.query('UPDATE uploads SET length = "offset"');
      await makeUntouchable(first);
      await processes.start('worker');
      expect((await user.settled(second)).status).toBe('completed');
    });

    test('when they expire', async () => {
      await start(['server']);
      const [first, second] = [await uploadPart(), await uploadPart()];
      await makeDue(processes.database);
      await makeUntouchable(first);
      await processes.start('worker');
      await until(
        'the second to be discarded',
        async () => (await findUpload(processes, second)).discarded_at,
      );
    });

    test('when nothing refers to them any more', async () => {
      await start(['server']);
      const [first, second] = [await uploadImage(), await uploadImage()];
      await processes.database.query('DELETE FROM files');
      await processes.database.query(`UPDATE blobs SET refs = 0, created_at = now() - interval '61 minutes'`);
      await makeUntouchable(first.id);
      await processes.start('worker');
      await until('the second to be swept', async () => !(await isStored(second.id)));
    });
  });

  test('the passes repair work left half done while the workers keep running', async () => {
    await start(['server', 'worker']);
    const content = [await makeImage(), await makeImage()];
    const paths = await Promise.all(content.map((bytes) => user.create(bytes.length)));
    const [unfinished = '', unqueued = ''] = paths.map(idOf);
    const barriers = [
      await closeBarrier(processes.database, 'INSERT ON files', `NEW.id = '${unfinished}'`),
      await closeBarrier(processes.database, 'INSERT ON bullmq.job', `NEW.data ->> 'fileId' = '${unqueued}'`),
    ];
    const expired = await uploadPart();
    const answers = paths.map((path, index) =>
      user.tus('PATCH', path, { 'Upload-Offset': '0' }, content[index] as BodyInit).catch(() => 'none'),
    );
    await Promise.all(barriers.map((barrier) => barrier.reached()));
    await processes.kill('server');
    await Promise.all(barriers.map((barrier) => barrier.cut()));
    expect(await Promise.all(answers)).toEqual(['none', 'none']);
    await setUpload(expired, `expires_at = now() - interval '1 second'`);
    await setUpload(unfinished, 'lease_expires_at = now()');
    await processes.database.query(
      `UPDATE files SET updated_at = now() - interval '30 seconds' WHERE id = $1`,
      [unqueued],
    );

    await processes.start('server');
    for (const [index, path] of paths.entries()) {
      await expectCompletedOnce(
        processes,
        user,
        idOf(path),
        content[index] ?? Buffer.alloc(0),
        TAKEOVER_SECONDS,
      );
    }
    await until('the upload to expire', async () => (await findUpload(processes, expired)).discarded_at);
    const { rows } = await processes.database.query(
      'SELECT count(seq), max(seq) FROM all_events WHERE seq IS NOT NULL',
    );
    expect(Number(rows[0].count)).toBe(Number(rows[0].max));
    await expectBlobsInOrder(processes);
  });
});
