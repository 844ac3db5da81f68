import { createLogger } from '../core/log.js';
import { openQueue, type ProcessingQueue } from '../core/queue/queue.js';
import { startWorker } from '../core/queue/worker.js';
import { registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { startRedis } from './support/redis.js';
import { eventsOf, problemOf, send } from './support/sign-in.js';
import { until } from './support/until.js';

/* Jobs and the queue, as admins see and change them. */

const log = createLogger('silent', 'test');

const WRONG_SUM = '0'.repeat(64);

describe.each(['PostgreSQL', 'Redis'])('with the queue in %s', (kind) => {
  let processes: Processes;
  let queue: ProcessingQueue;
  let place: { databaseUrl: string; redisUrl: string | undefined };
  let closeRedis = async () => {};
  let admin: TestUser;
  let user: TestUser;

  beforeAll(async () => {
    const redis = kind === 'Redis' ? await startRedis() : undefined;
    if (redis) closeRedis = redis.close;
    processes = await startProcesses(redis ? { REDIS_URL: redis.url } : {});
    place = { databaseUrl: processes.database.url, redisUrl: redis?.url };
    queue = openQueue({ ...place, attempts: 3, backoffMs: 20, log });
    await until('the queue to answer', () => queue.reachable);
    admin = await registerUser(() => processes.url);
    user = await registerUser(() => processes.url);
  });

  afterAll(async () => {
    await queue?.close();
    await processes?.close();
    await closeRedis();
  });

  const upload = (metadata: Record<string, string> = {}) =>
    user.upload(Buffer.from('a file'), { filename: 'secret name.txt', ...metadata });
  const jobOf = (fileId: string, run = 1) => admin.get(`/api/admin/jobs/${fileId}-${run}`);
  const list = (query = '') => admin.get(`/api/admin/jobs?${query}`);
  const act = (path: string, method: 'POST' | 'DELETE' = 'POST') =>
    admin.fetch(`/api/admin/${path}`, { method });

  test('a failed job is listed with its reason, and retried as a new run', async () => {
    const [good, bad] = [await upload(), await upload({ sha256: WRONG_SUM })];
    await Promise.all([user.settled(good), user.settled(bad)]);
    const { items } = await list('status=failed');
    expect(items).toEqual([
      {
        id: `${bad}-1`,
        fileId: bad,
        ownerId: user.id,
        run: 1,
        status: 'failed',
        step: 'verify',
        progress: expect.any(Number),
        attempts: 1,
        priority: 0,
        steps: expect.any(Object),
        error: { step: 'verify', code: 'checksum_mismatch', detail: expect.any(String) },
        createdAt: expect.any(String),
        startedAt: expect.any(String),
        updatedAt: expect.any(String),
        completedAt: null,
      },
    ]);
    expect(JSON.stringify(await list())).not.toContain('secret name');
    expect(await jobOf(good)).toMatchObject({ status: 'completed', queueState: 'completed', progress: 100 });
    expect(await problemOf(await act(`jobs/${good}-1/retry`))).toEqual([409, 'wrong_state']);

    const answer = await act(`jobs/${bad}-1/retry`);
    expect(await answer.json()).toMatchObject({ id: `${bad}-2`, run: 2, status: 'pending', error: null });
    // The former run is no job any more.
    expect(await problemOf(await act(`jobs/${bad}-1/retry`))).toEqual([404, 'not_found']);
    await until('it to fail again', async () => (await jobOf(bad, 2)).status === 'failed');
    const { rows } = await processes.database.query(
      `SELECT actor->>'userId' AS by FROM all_events WHERE subject_id = $1 AND type = 'file.pending'`,
      [bad],
    );
    expect(rows).toEqual([{ by: admin.id }]);
  });

  test('what failed is counted by reason, and tried again by reason or all at once', async () => {
    // One worker fails them; none is there to take the new runs.
    const failed = [await upload({ sha256: WRONG_SUM }), await upload({ sha256: WRONG_SUM })];
    await Promise.all(failed.map((id) => user.settled(id)));
    const before = await admin.get('/api/admin/jobs/failures');
    expect(before.items).toEqual([
      {
        step: 'verify',
        code: 'checksum_mismatch',
        files: before.files,
        oldestAt: expect.any(String),
        newestAt: expect.any(String),
      },
    ]);
    expect(before.files).toBeGreaterThanOrEqual(2);
    const ofReason = await list('status=failed&step=verify&code=checksum_mismatch');
    expect(ofReason.items.slice(0, 2).map(({ fileId }: { fileId: string }) => fileId)).toEqual(
      failed.toReversed(),
    );
    expect((await list('status=failed&code=infected')).items).toEqual([]);

    await processes.stop('worker');
    const retry = async (body: object) => (await send(admin, 'POST', '/api/admin/jobs/retry', body)).json();
    expect(await retry({ code: 'unreadable' })).toEqual({ retried: 0, remaining: 0 });
    expect(await retry({ failedBefore: ofReason.items[1].createdAt, step: 'verify' })).toMatchObject({
      remaining: 0,
    });
    expect(await jobOf(failed[0] ?? '')).toMatchObject({ status: 'failed' });
    expect((await retry({ step: 'verify' })).retried).toBeGreaterThanOrEqual(2);
    for (const id of failed) expect(await jobOf(id, 2)).toMatchObject({ status: 'pending', error: null });
    expect(await admin.get('/api/admin/jobs/failures')).toEqual({ files: 0, items: [] });
    expect(await problemOf(await send(admin, 'POST', '/api/admin/jobs/retry', { file: failed[0] }))).toEqual([
      400,
      'invalid_request',
    ]);
    await processes.start('worker');
    await until('them to fail again', async () => (await admin.get('/api/admin/jobs/failures')).files >= 2);
  });

  test('the list is read in pages, without gaps or repeats', async () => {
    const ids = [await upload(), await upload(), await upload()];
    const seen: string[] = [];
    for (let query = 'limit=2'; ; ) {
      const { items, nextCursor } = await list(query);
      seen.push(...items.map(({ fileId }: { fileId: string }) => fileId));
      if (nextCursor === null) break;
      query = `limit=2&cursor=${nextCursor}`;
    }
    expect(seen.slice(0, 3)).toEqual(ids.toReversed());
    expect(new Set(seen).size).toBe(seen.length);
    for (const query of ['cursor=x', 'status=broken', 'limit=0', 'state=failed']) {
      const answer = await admin.fetch(`/api/admin/jobs?${query}`);
      expect([query, ...(await problemOf(answer))]).toEqual([query, 400, 'invalid_request']);
    }
    await Promise.all(ids.map((id) => user.settled(id)));
  });

  test('a removed job is gone; its file stays as it is, or is canceled if it was waiting', async () => {
    const done = await upload();
    await user.settled(done);
    expect((await act(`jobs/${done}-1`, 'DELETE')).status).toBe(204);
    expect(await problemOf(await act(`jobs/${done}-1`, 'DELETE'))).toEqual([404, 'not_found']);
    expect((await user.get(`/api/files/${done}`)).status).toBe('completed');
    expect(await queue.getState({ fileId: done, run: 1 })).toBe('missing');
    expect(await eventsOf(processes.database, done)).toContain('job.removed');

    await processes.stop('worker');
    const waiting = await upload();
    expect((await act(`jobs/${waiting}-1`, 'DELETE')).status).toBe(204);
    expect((await user.get(`/api/files/${waiting}`)).status).toBe('canceled');
    expect(await queue.getState({ fileId: waiting, run: 1 })).toBe('missing');
    const { items } = await list();
    expect(items.map(({ fileId }: { fileId: string }) => fileId)).not.toContain(waiting);

    // Another worker, whose jobs last as long as the test says.
    const running = await upload();
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const worker = startWorker({ ...place, concurrency: 1, log, handle: () => ended });
    await until('the job to run', async () => (await jobOf(running)).queueState === 'active');
    expect(await problemOf(await act(`jobs/${running}-1`, 'DELETE'))).toEqual([409, 'wrong_state']);
    expect((await user.get(`/api/files/${running}`)).status).toBe('pending');
    end();
    await worker.close();

    await processes.start('worker');
    // The relay notices that the other worker has not processed its file.
    await user.settled(running);
    // Its owner may have it processed all the same, which makes a new job.
    expect((await send(user, 'POST', `/api/files/${waiting}/retry`, {})).status).toBe(200);
    await until('it to complete', async () => (await jobOf(waiting, 2)).status === 'completed');
  });

  test('a pause holds the queue over restarts, although the relay adds missing jobs', async () => {
    const paused = await act('queue/pause');
    expect(await paused.json()).toMatchObject({
      backend: kind === 'Redis' ? 'redis' : 'postgresql',
      paused: true,
    });
    const [present, lost] = [await upload(), await upload()];
    await queue.controls.remove(`${lost}-1`);
    expect((await jobOf(lost)).queueState).toBe('missing');
    await Promise.all([processes.stop('server'), processes.stop('worker')]);
    await processes.start('server');
    await processes.start('worker');
    await until('the relay to add the lost job', async () => (await jobOf(lost)).queueState === 'waiting');
    expect((await jobOf(present)).queueState).toBe('waiting');
    await until('the worker to be known', async () => (await admin.get('/api/admin/queue')).workers === 1);
    const state = await admin.get('/api/admin/queue');
    expect(state).toMatchObject({ paused: true, jobs: { waiting: 2, active: 0 } });
    expect(state.oldestWaitingSeconds).toBeGreaterThanOrEqual(0);
    expect((await user.get(`/api/files/${present}`)).status).toBe('pending');

    expect(await (await act('queue/resume')).json()).toMatchObject({ paused: false });
    await Promise.all([present, lost].map((id) => user.settled(id)));
    expect(await admin.get('/api/admin/queue')).toMatchObject({
      paused: false,
      jobs: { waiting: 0 },
      oldestWaitingAt: null,
      oldestWaitingSeconds: null,
    });
    const { rows } = await processes.database.query(
      `SELECT type, actor->>'userId' AS by FROM all_events WHERE type LIKE 'queue.%' ORDER BY id`,
    );
    expect(rows).toEqual(['queue.paused', 'queue.resumed'].map((type) => ({ type, by: admin.id })));
  });
});

test('while the queue is away, jobs can still be read', async () => {
  const redis = await startRedis();
  const processes = await startProcesses({ REDIS_URL: redis.url }, ['server']);
  try {
    const admin = await registerUser(() => processes.url);
    const id = await admin.upload(Buffer.from('a file'), { filename: 'a.txt' });
    await redis.stop();
    await until('the server to notice', async () => (await admin.fetch('/api/admin/queue')).status === 503);
    expect((await admin.get('/api/admin/jobs')).items).toMatchObject([{ fileId: id, status: 'pending' }]);
    expect(await admin.get(`/api/admin/jobs/${id}-1`)).toMatchObject({ status: 'pending', queueState: null });
    for (const [path, method] of [
      ['queue/pause', 'POST'],
      ['queue/resume', 'POST'],
      [`jobs/${id}-1`, 'DELETE'],
    ] as const) {
      const answer = await admin.fetch(`/api/admin/${path}`, { method });
      expect([path, ...(await problemOf(answer))]).toEqual([path, 503, 'unavailable']);
    }
    expect((await admin.get(`/api/files/${id}`)).status).toBe('pending');
  } finally {
    await processes.close();
    await redis.close();
  }
});
