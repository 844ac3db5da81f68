import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import { AppError } from '../core/errors.js';
import { createLogger } from '../core/log.js';
import { migrateQueue, openQueue, type ProcessingQueue } from '../core/queue/queue.js';
import { type JobContext, JobInterrupted, type ProcessingWorker, startWorker } from '../core/queue/worker.js';
import { createLanes } from '../worker/lanes.js';
import { createDatabase } from './support/database.js';
import { startPostgresProxy } from './support/postgres-proxy.js';
import { type RedisProcess, startRedis } from './support/redis.js';
import { until } from './support/until.js';

const log = createLogger('silent', 'test');

const ATTEMPTS = 3;

const GIB = 1024 ** 3;

let place: { databaseUrl: string; redisUrl: string | undefined };
let queue: ProcessingQueue;
const workers: ProcessingWorker[] = [];

const open = (backoffMs = 20) => openQueue({ ...place, attempts: ATTEMPTS, backoffMs, log });

function work(handle: (job: JobContext) => Promise<void>): ProcessingWorker {
  const worker = startWorker({ ...place, concurrency: 2, log, handle });
  workers.push(worker);
  return worker;
}

const makeJob = () => ({ fileId: randomUUID(), run: 1 });

/** Whether the queue accepts the job now. */
const taken = (by: ProcessingQueue, job = makeJob()) =>
  by.add(job).then(
    () => true,
    () => false,
  );

async function stopWorkers(): Promise<void> {
  await Promise.all(workers.splice(0).map((worker) => worker.close()));
}

describe.each(['PostgreSQL', 'Redis'])('the queue in %s', (kind) => {
  let close: () => Promise<void>;
  /** Makes the queue believe that so many workers died while they ran the job. */
  let setCrashes: (jobId: string, crashes: number) => Promise<unknown>;

  beforeAll(async () => {
    if (kind === 'Redis') {
      const redis = await startRedis();
      place = { databaseUrl: '', redisUrl: redis.url };
      const client = new Redis(redis.url);
      setCrashes = (id, crashes) => client.hset(`landfall:processing:${id}`, 'stc', crashes);
      close = async () => {
        client.disconnect();
        await redis.close();
      };
    } else {
      const database = await createDatabase();
      place = { databaseUrl: database.url, redisUrl: undefined };
      setCrashes = (id, crashes) =>
        database.query('UPDATE bullmq.job SET stalled_count = $2 WHERE id = $1', [id, crashes]);
      close = database.drop;
    }
    queue = open();
    await until('the queue to answer', () => queue.reachable);
  });
  afterEach(stopWorkers);
  afterAll(async () => {
    await queue?.close();
    await close?.();
  });

  test('a job is missing, open and then completed, and runs once however often it is added', async () => {
    const [job, other] = [makeJob(), makeJob()];
    expect(await queue.getState(job)).toBe('missing');
    await queue.add({ ...job, requestId: 'r-1' });
    await queue.add(job, other, job);
    expect(await queue.getState(job)).toBe('open');
    const seen: JobContext[] = [];
    work(async (context) => {
      seen.push(context);
    });
    await until('both to be done', async () => {
      return (await queue.getState(job)) === 'completed' && (await queue.getState(other)) === 'completed';
    });
    await queue.add(job);
    expect(await queue.getState(job)).toBe('completed');
    expect(seen).toHaveLength(2);
    expect(seen).toContainEqual({
      ...job,
      requestId: 'r-1',
      attempt: 1,
      lastAttempt: false,
      crashes: 0,
      signal: expect.any(AbortSignal),
    });
    // Another run of the same file is another job.
    expect(await queue.getState({ ...job, run: 2 })).toBe('missing');
  });

  test('a paused queue keeps its jobs, and says so to a client that comes later', async () => {
    const jobs = [makeJob(), { ...makeJob(), priority: 2 }, makeJob()];
    const before = Date.now();
    await queue.controls.pause();
    await queue.add(...jobs);
    const seen: string[] = [];
    work(async ({ fileId }) => void seen.push(fileId));
    const later = open();
    try {
      await until('the worker to be known', async () => (await later.controls.countWorkers()) === 1);
      expect(await later.controls.isPaused()).toBe(true);
      expect(await later.countByState()).toMatchObject({ waiting: 2, prioritized: 1, delayed: 0, active: 0 });
      expect((await later.waitingSince())?.getTime()).toBeGreaterThanOrEqual(before - 1000);
      // The relay would take uncounted jobs for missing ones.
      expect(await later.countOpen()).toBe(3);
      const [first, second, third] = jobs.map((job) => `${job.fileId}-${job.run}`);
      expect(await later.controls.look(first ?? '')).toBe('waiting');
      expect(await later.controls.look(second ?? '')).toBe('prioritized');
      expect(await later.controls.remove(third ?? '')).toBe(true);
      expect(await later.controls.remove(third ?? '')).toBe(true);
      expect(await later.controls.look(third ?? '')).toBe('missing');
      expect(seen).toEqual([]);
      await later.controls.resume();
    } finally {
      await later.close();
    }
    await until('the others to run', () => seen.length === 2);
    await until('none to be open', async () => (await queue.countOpen()) === 0);
    expect([await queue.controls.isPaused(), await queue.waitingSince()]).toEqual([false, undefined]);
  });

  test('large files leave a slot to small ones, and are done in the end', async () => {
    const lanes = createLanes(2);
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const done: number[] = [];
    work(({ size = 0 }) =>
      lanes.run(size, async () => {
        if (size > 1) await ended;
        done.push(size);
      }),
    );
    const large = [GIB, 2 * GIB, 3 * GIB].map((size) => ({ ...makeJob(), size }));
    await queue.add(...large);
    await until('one of the large ones to run', async () => (await queue.countByState()).active > 0);
    const small = Array.from({ length: 20 }, () => ({ ...makeJob(), size: 1 }));
    await queue.add(...small);
    await until('the small ones to be done', () => done.length === small.length);
    end();
    await until('all to be done', () => done.length === small.length + large.length);
    expect(new Set(done.slice(small.length))).toEqual(new Set([GIB, 2 * GIB, 3 * GIB]));
  });

  test('all workers together run no more jobs than the queue allows', async () => {
    await queue.controls.limitRunning(2);
    let running = 0;
    let most = 0;
    let ended = 0;
    const handle = async () => {
      most = Math.max(most, ++running);
      // A third job would begin now if it could.
      await until('another to run', () => most > 1);
      await queue.countOpen();
      running--;
      ended++;
    };
    work(handle);
    work(handle);
    await queue.add(...Array.from({ length: 10 }, makeJob));
    await until('all to be done', () => ended === 10);
    expect(most).toBe(2);
    await queue.controls.limitRunning(undefined);
    expect(await queue.bull.getGlobalConcurrency()).toBeNull();
  });

  test('a job that runs cannot be removed', async () => {
    const job = makeJob();
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    work(() => ended);
    await queue.add(job);
    const id = `${job.fileId}-${job.run}`;
    await until('it to run', async () => (await queue.controls.look(id)) === 'active');
    expect(await queue.controls.remove(id)).toBe(false);
    end();
    await until('it to end', async () => (await queue.getState(job)) === 'completed');
    expect(await queue.controls.remove(id)).toBe(true);
    expect(await queue.getState(job)).toBe('missing');
  });

  test('a failed job is tried again after a backoff, and fails for good after its last attempt', async () => {
    const job = makeJob();
    const seen: JobContext[] = [];
    work(async (context) => {
      seen.push(context);
      throw new Error('not this time');
    });
    // The backoff is so long that the test sees each pause, and ends it itself.
    const patient = open(60_000);
    try {
      await patient.add(job);
      for (const [attempt, least, most] of [
        [1, 30_000, 60_000],
        [2, 60_000, 120_000],
      ] as const) {
        const paused = await until('it to wait', async () => {
          const found = await patient.bull.getJob(`${job.fileId}-${job.run}`);
          return found?.attemptsMade === attempt && (await found.isDelayed()) && found;
        });
        expect(paused.delay).toBeGreaterThanOrEqual(least);
        expect(paused.delay).toBeLessThanOrEqual(most);
        expect(seen).toHaveLength(attempt);
        await paused.promote();
      }
      await until('it to fail', async () => (await patient.getState(job)) === 'failed');
    } finally {
      await patient.close();
    }
    expect(seen.map(({ attempt, lastAttempt }) => [attempt, lastAttempt])).toEqual([
      [1, false],
      [2, false],
      [3, true],
    ]);
  });

  test('a job is tried again only after a failure that is retryable', async () => {
    const [hopeless, hopeful] = [makeJob(), makeJob()];
    const attempts = new Map<string, number>();
    work(async ({ fileId, attempt }) => {
      attempts.set(fileId, attempt);
      throw new AppError('unreadable', { retryable: fileId === hopeful.fileId });
    });
    await queue.add(hopeless, hopeful);
    for (const job of [hopeless, hopeful]) {
      await until('it to fail', async () => (await queue.getState(job)) === 'failed');
    }
    expect([attempts.get(hopeless.fileId), attempts.get(hopeful.fileId)]).toEqual([1, ATTEMPTS]);
  });

  test('a job that is interrupted goes to the next worker and loses no attempt', async () => {
    const job = makeJob();
    const attempts: number[] = [];
    let interrupt = () => {};
    const interrupted = new Promise<void>((resolve) => {
      interrupt = resolve;
    });
    const first = work(async ({ attempt }) => {
      attempts.push(attempt);
      await interrupted;
      throw new JobInterrupted();
    });
    await queue.add(job);
    await until('it to run', () => attempts.length);
    const closed = first.close();
    interrupt();
    await closed;
    expect(await queue.getState(job)).toBe('open');
    work(async ({ attempt }) => void attempts.push(attempt));
    await until('it to be done', async () => (await queue.getState(job)) === 'completed');
    expect(attempts).toEqual([1, 1]);
  });

  test('a job that is interrupted again and again loses no attempt', async () => {
    const job = makeJob();
    const seen: JobContext[] = [];
    work(async (context) => {
      seen.push(context);
      if (seen.length < 3 * ATTEMPTS) throw new JobInterrupted(10);
    });
    await queue.add(job);
    await until('it to be done', async () => (await queue.getState(job)) === 'completed');
    expect(
      new Set(seen.map(({ attempt, lastAttempt, crashes }) => `${attempt} ${lastAttempt} ${crashes}`)),
    ).toEqual(new Set(['1 false 0']));
  });

  test('a worker that is paused takes no jobs until it is told to go on', async () => {
    const seen: string[] = [];
    let isPaused = false;
    const worker = work(async ({ fileId }) => {
      // A job may still come that the worker asked for before the pause.
      if (isPaused) throw new JobInterrupted(10);
      seen.push(fileId);
    });
    for (const round of [1, 2, 3]) {
      isPaused = true;
      worker.pause();
      const jobs = [makeJob(), makeJob(), makeJob()];
      await queue.add(...jobs);
      expect(await queue.countOpen()).toBe(3);
      // Another worker is not held up. Once it has done all jobs, the paused worker could have taken one too.
      await queue.add(makeJob());
      const second = startWorker({ ...place, concurrency: 1, log, handle: async () => {} });
      await until('another to do them', async () => (await queue.countOpen()) === 0);
      await second.close();
      expect(seen).toHaveLength(round - 1);

      isPaused = false;
      worker.resume();
      const last = makeJob();
      await queue.add(last);
      await until('it to go on', () => seen.length === round);
      expect(seen.at(-1)).toBe(last.fileId);
      await until('all to be done', async () => (await queue.countOpen()) === 0);
    }
  });

  test('jobs without a priority come first, and then the lowest number', async () => {
    const jobs = [3, 1, undefined, 2, 0].map((priority) => ({
      ...makeJob(),
      ...(priority !== undefined && { priority }),
    }));
    await queue.add(...jobs);
    expect(await queue.countOpen()).toBe(jobs.length);
    const seen: string[] = [];
    workers.push(
      startWorker({ ...place, concurrency: 1, log, handle: async ({ fileId }) => void seen.push(fileId) }),
    );
    await until('all to be done', () => seen.length === jobs.length);
    expect(seen).toEqual([2, 4, 1, 3, 0].map((index) => jobs[index]?.fileId));
  });

  test('a job is told how often its workers have died, and the queue does not fail it for that', async () => {
    const job = makeJob();
    await queue.add(job);
    await setCrashes(`${job.fileId}-${job.run}`, 1000);
    const seen: JobContext[] = [];
    work(async (context) => void seen.push(context));
    await until('it to be done', async () => (await queue.getState(job)) === 'completed');
    expect(seen).toMatchObject([{ ...job, attempt: 1, lastAttempt: false, crashes: 1000 }]);
  });

  test('a bounded number of ended jobs is kept', async () => {
    const jobs = Array.from({ length: 500 }, makeJob);
    const failing = new Set<string>(jobs.slice(0, 300).map(({ fileId }) => fileId));
    // An answer to all of them at once might come too late on a busy machine.
    for (let from = 0; from < jobs.length; from += 50) await queue.add(...jobs.slice(from, from + 50));
    const worker = startWorker({
      ...place,
      concurrency: 20,
      log,
      async handle({ fileId }) {
        if (failing.has(fileId)) throw new AppError('unreadable');
      },
    });
    workers.push(worker);
    await until('all to have ended', async () => (await queue.countOpen()) === 0);
    const { completed, failed } = await queue.bull.getJobCounts('completed', 'failed');
    // In PostgreSQL, jobs that end at the same moment do not see each other, so a few more are kept.
    expect(completed).toBeLessThan(150);
    expect(failed).toBeLessThan(250);
  });

  test('a worker that stops waits for the job that runs', async () => {
    const job = makeJob();
    let end = () => {};
    const running = new Promise<void>((begun) => {
      work(async () => {
        begun();
        await new Promise<void>((resolve) => {
          end = resolve;
        });
      });
    });
    await queue.add(job);
    await running;
    let closed = false;
    const closing = stopWorkers().then(() => {
      closed = true;
    });
    await queue.add(makeJob());
    expect(closed).toBe(false);
    end();
    await closing;
    expect(await queue.getState(job)).toBe('completed');
  });
});

test('a PostgreSQL that does not answer does not hold up a caller that adds a job', async () => {
  const database = await createDatabase();
  const wire = await startPostgresProxy();
  const away = openQueue({
    databaseUrl: await wire.reach(database.url),
    redisUrl: undefined,
    attempts: ATTEMPTS,
    backoffMs: 20,
    log,
  });
  try {
    const pause = wire.pauseAt(({ text }) => text.includes('add_jobs_bulk'), 'before');
    const job = makeJob();
    await expect(away.add(job)).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    await pause.reached;
    pause.open();
    await until('the job to be there all the same', async () => (await away.getState(job)) === 'open');
  } finally {
    await away.close();
    await wire.close();
    await database.drop();
  }
});

test('an upgrade deletes the jobs that ended long ago, in small transactions, and no others', async () => {
  const database = await createDatabase();
  try {
    const insert = (state: string, minutesAgo: number, count: number) =>
      database.query(
        `INSERT INTO bullmq.job (queue, id, seq, name, state, added_at_ms, finished_at_ms)
         SELECT 'processing', concat($1::text, $2::int, '-', i), i, 'process', $1::bullmq.job_state, 0,
           extract(epoch FROM now() - $2 * interval '1 minute') * 1000
         FROM generate_series(1, $3::int) AS i`,
        [state, minutesAgo, count],
      );
    await insert('completed', 120, 12_000);
    await insert('failed', 61, 3);
    await insert('failed', 5, 2);
    await insert('waiting', 120, 4);
    await migrateQueue(await database.connect());
    const { rows } = await database.query(
      'SELECT state::text, count(*)::integer FROM bullmq.job GROUP BY state ORDER BY state::text',
    );
    expect(rows).toEqual([
      { state: 'failed', count: 2 },
      { state: 'waiting', count: 4 },
    ]);
  } finally {
    await database.drop();
  }
});

describe('a Redis that', () => {
  let redis: RedisProcess;

  beforeEach(async () => {
    redis = await startRedis();
    place = { databaseUrl: '', redisUrl: redis.url };
    queue = open();
    await until('the queue to answer', () => queue.reachable);
  });
  afterEach(async () => {
    await stopWorkers();
    await queue.close();
    await redis.close();
  });

  test('is away refuses jobs until it is back, and then queue and worker go on by themselves', async () => {
    const done: string[] = [];
    let backs = 0;
    queue.onBack?.(() => backs++);
    work(async ({ fileId }) => void done.push(fileId));
    const [before, meanwhile, after] = [makeJob(), makeJob(), makeJob()];
    await queue.add(before);
    await until('the first to be done', () => done.length === 1);

    await redis.stop();
    await expect(queue.add(meanwhile)).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    await expect(queue.getState(meanwhile)).rejects.toMatchObject({ code: 'unavailable' });
    expect(queue.reachable).toBe(false);

    await redis.start();
    await until('the queue to be back', () => backs === 1);
    expect(await queue.getState(before)).toBe('missing');
    await queue.add(after);
    await until('the last to be done', () => done.includes(after.fileId));
  });

  test('does not answer does not hold up a caller', async () => {
    const client = new Redis(redis.url);
    const [, pid] = /^process_id:(\d+)/m.exec(await client.info('server')) ?? [];
    client.disconnect();
    process.kill(Number(pid), 'SIGSTOP');
    try {
      await expect(queue.add(makeJob())).rejects.toMatchObject({ code: 'unavailable' });
    } finally {
      process.kill(Number(pid), 'SIGCONT');
    }
    await until('the queue to take jobs again', () => taken(queue));
  });

  test('is away at the start is used once it is there', async () => {
    await redis.stop();
    const early = open();
    try {
      await expect(early.add(makeJob())).rejects.toMatchObject({ code: 'unavailable' });
      const done: string[] = [];
      work(async ({ fileId }) => void done.push(fileId));
      await redis.start();
      const job = makeJob();
      await until('the job to be taken', () => taken(early, job));
      // The job that was refused may have been added too.
      await until('it to be done', () => done.includes(job.fileId));
    } finally {
      await early.close();
    }
  });

  test('loses all its data while a job runs does not break the worker', async () => {
    const done: string[] = [];
    let end = () => {};
    const job = makeJob();
    const running = new Promise<void>((begun) => {
      work(async ({ fileId }) => {
        if (fileId === job.fileId) {
          begun();
          await new Promise<void>((resolve) => {
            end = resolve;
          });
        }
        done.push(fileId);
      });
    });
    await queue.add(job);
    await running;
    await redis.flush();
    expect(await queue.getState(job)).toBe('missing');
    end();
    const next = makeJob();
    await queue.add(next);
    await until('the next to be done', () => done.includes(next.fileId));
    expect(await queue.getState(job)).toBe('missing');
  });

  test('is away does not keep queue and worker from closing', async () => {
    let end = () => {};
    let finished = false;
    const running = new Promise<void>((begun) => {
      work(async () => {
        begun();
        await new Promise<void>((resolve) => {
          end = resolve;
        });
        finished = true;
      });
    });
    await queue.add(makeJob());
    await running;
    await redis.stop();
    await until('the queue to notice', () => !queue.reachable);
    const closing = stopWorkers();
    end();
    // A close that waited for Redis would wait for ever.
    await closing;
    await queue.close();
    expect(finished).toBe(true);
  });
});
