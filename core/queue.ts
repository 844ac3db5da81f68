import {
  createPostgresBackend,
  type DefaultJobOptions,
  DelayedError,
  type Job,
  type PgPool,
  Queue,
  runMigrations,
  UnrecoverableError,
  Worker,
  type WorkerOptions,
  withBackend,
} from 'bullmq';
import { TimedOut, within } from './concurrency.js';
import { DatabasePool, REQUEST_LIMITS } from './database/client.js';
import { AppError } from './errors.js';
import type { Logger } from './log.js';
import { connectRedis } from './redis.js';

/*
 * The queue of processing jobs, on BullMQ, in PostgreSQL or in Redis. The only importer of bullmq.
 *
 * The queue is derived: PostgreSQL's `files` rows are the truth, a job only wakes a worker up. A job's id is
 * `<fileId>-<run>`, so adding it twice is harmless, and a job that was lost is added again by the relay. Redis may
 * therefore be away or lose all it has: nobody waits for it but the workers.
 */

export interface ProcessingJob {
  fileId: string;
  run: number;
  /** Of the request that caused the job, for the logs. */
  requestId?: string | undefined;
}

/** `missing`: the queue does not know the job. `open`: it runs, waits or will be retried. */
export type JobState = 'missing' | 'open' | 'completed' | 'failed';

export interface ProcessingQueue {
  /** Adds the jobs that are not there already. @throws soon when the queue cannot be reached */
  add(...jobs: ProcessingJob[]): Promise<void>;
  /** @throws soon when the queue cannot be reached */
  getState(job: ProcessingJob): Promise<JobState>;
  close(): Promise<void>;
  /** Whether the queue answers, as far as is known. */
  readonly reachable: boolean;
  /** Calls `listener` each time a queue that may lose jobs is back after it was away. */
  onBack?(listener: () => void): void;
  /** For Bull Board. */
  readonly bull: Queue;
}

export interface ProcessingWorker {
  /** Takes no more jobs and waits for the running ones. */
  close(): Promise<void>;
}

/** What a worker is told about the job it runs. */
export interface JobContext extends ProcessingJob {
  /** 1 for the first attempt. */
  attempt: number;
  /** Whether the job fails for good if this attempt does. */
  lastAttempt: boolean;
}

/** Thrown by a handler that stops because its process does: the job waits for the next worker and loses no attempt. */
export class JobInterrupted extends Error {
  override name = 'JobInterrupted';
}

/** Where the queue is kept: in Redis if its address is known. */
interface QueuePlace {
  databaseUrl: string;
  redisUrl: string | undefined;
}

const postgres = withBackend(createPostgresBackend);

const QUEUE = 'processing';

/** What the keys in Redis begin with. */
const PREFIX = 'landfall';

/** A worker that died is noticed after at most LOCK_MS + STALLED_CHECK_MS. */
const LOCK_MS = 10_000;
const STALLED_CHECK_MS = 5_000;

/** How often a job may lose its worker before it fails: crashes are rarely the file's fault (parsers are children). */
const MAX_STALLED = 10;

/** How long a worker that could not reach the queue waits before it tries again; BullMQ's own 15 s are felt. */
const AFTER_OUTAGE_MS = 1_000;

const KEEP_COMPLETED_SECONDS = 24 * 3600;

/** Connections to PostgreSQL for one queue or worker; one of a worker's listens for wake-ups. */
const POOL_SIZE = 5;

/** How long Redis may take to answer before the job is left to the relay: a client's upload waits for it. */
const ANSWER_MS = 1_500;

/** Up to half of the delay is taken off at random, so that files which failed together do not come back together. */
const BACKOFF_JITTER = 0.5;

/** Creates or updates the queue's own tables. @param client a connected pg.Client */
export async function migrateQueue(client: Parameters<typeof runMigrations>[0]): Promise<void> {
  await runMigrations(client);
}

function jobId({ fileId, run }: ProcessingJob): string {
  return `${fileId}-${run}`;
}

/**
 * Opens the queue for adding jobs. Redis need not be there yet.
 * @param options.attempts how often a job is tried in all
 * @param options.backoffMs delay before the second attempt, doubled for each further one
 */
export function openQueue(
  options: QueuePlace & { attempts: number; backoffMs: number; log: Logger },
): ProcessingQueue {
  const defaultJobOptions = {
    attempts: options.attempts,
    backoff: { type: 'exponential', delay: options.backoffMs, jitter: BACKOFF_JITTER },
    removeOnComplete: { age: KEEP_COMPLETED_SECONDS },
  };
  return options.redisUrl
    ? openRedisQueue(options.redisUrl, options.log, defaultJobOptions)
    : openPostgresQueue(options, defaultJobOptions);
}

/** Of our own, because BullMQ opens one to listen on without looking whether it was stillborn. */
function openPool(connectionString: string): PgPool {
  const pool = new DatabasePool({
    connectionString,
    max: POOL_SIZE,
    keepAlive: true,
    options: '-c search_path=bullmq',
    limits: REQUEST_LIMITS,
  });
  // BullMQ describes what it needs of a pool in types of its own, which fit those of pg but for overloads.
  return pool as unknown as PgPool;
}

function openPostgresQueue(
  options: QueuePlace & { log: Logger },
  defaultJobOptions: DefaultJobOptions,
): ProcessingQueue {
  const pool = openPool(options.databaseUrl);
  const bull = new postgres.Queue<ProcessingJob>(QUEUE, {
    connection: pool,
    defaultJobOptions,
  });
  bull.on('error', (error) => options.log.warn({ err: error }, 'queue connection'));
  return {
    ...operations(bull as unknown as Queue),
    reachable: true,
    async close() {
      await bull.close();
      await pool.end();
    },
  };
}

function openRedisQueue(url: string, log: Logger, defaultJobOptions: DefaultJobOptions): ProcessingQueue {
  const { client, reportError, onBack } = connectRedis(url, log, { use: 'queue' });
  const bull = new Queue<ProcessingJob>(QUEUE, { connection: client, prefix: PREFIX, defaultJobOptions });
  bull.on('error', reportError);
  const { add, getState, ...rest } = operations(bull);

  /** Commands wait for a Redis that is away, and are carried out when it is back: but we do not wait for them. */
  async function promptly<T>(work: () => Promise<T>): Promise<T> {
    if (['close', 'reconnecting', 'end'].includes(client.status)) throw queueAway();
    return within(ANSWER_MS, work(), 'queue').catch((error: unknown) => {
      throw error instanceof TimedOut ? queueAway() : error;
    });
  }

  return {
    ...rest,
    onBack,
    add: (...jobs) => promptly(() => add(...jobs)),
    getState: (job) => promptly(() => getState(job)),
    get reachable() {
      return client.status === 'ready';
    },
    async close() {
      await bull.close();
      client.disconnect();
    },
  };
}

function operations(bull: Queue<ProcessingJob>): Pick<ProcessingQueue, 'add' | 'getState' | 'bull'> {
  return {
    bull,
    async add(...jobs) {
      await bull.addBulk(jobs.map((data) => ({ name: 'process', data, opts: { jobId: jobId(data) } })));
    },
    async getState(job) {
      const state = await bull.getJobState(jobId(job));
      if (state === 'completed' || state === 'failed') return state;
      return state === 'unknown' ? 'missing' : 'open';
    },
  };
}

function queueAway(): AppError {
  return new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
}

/**
 * Starts to work on jobs: `handle` runs up to `concurrency` times at once. What it throws is tried again after
 * the backoff, except an AppError that is not retryable.
 */
export function startWorker(
  options: QueuePlace & {
    concurrency: number;
    log: Logger;
    handle: (job: JobContext) => Promise<void>;
  },
): ProcessingWorker {
  const settings = {
    concurrency: options.concurrency,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: MAX_STALLED,
    runRetryDelay: AFTER_OUTAGE_MS,
  };
  let closing = false;
  const run = (job: Job<ProcessingJob>, token?: string) => {
    // BullMQ may have asked for one more when it was told to close.
    const handle = closing ? () => Promise.reject(new JobInterrupted()) : options.handle;
    return runJob(handle, job, token);
  };
  const worker = options.redisUrl
    ? startRedisWorker(options.redisUrl, options.log, settings, run)
    : startPostgresWorker(options.databaseUrl, options.log, settings, run);
  let closed: Promise<void> | undefined;
  return {
    close() {
      closing = true;
      closed ??= worker.close();
      return closed;
    },
  };
}

type Run = (job: Job<ProcessingJob>, token?: string) => Promise<void>;
type WorkerSettings = Omit<WorkerOptions, 'connection'>;

function startPostgresWorker(
  databaseUrl: string,
  log: Logger,
  settings: WorkerSettings,
  run: Run,
): ProcessingWorker {
  const pool = openPool(databaseUrl);
  const worker = new postgres.Worker<ProcessingJob>(QUEUE, run, {
    connection: pool,
    ...settings,
  });
  worker.on('error', (error) => log.warn({ err: error }, 'worker connection'));
  return {
    async close() {
      await worker.close();
      await pool.end();
    },
  };
}

function startRedisWorker(url: string, log: Logger, settings: WorkerSettings, run: Run): ProcessingWorker {
  const { client, reportError } = connectRedis(url, log, { use: 'queue' });
  const running = new Set<Promise<void>>();
  const worker = new Worker<ProcessingJob>(
    QUEUE,
    (job, token) => {
      const promise = run(job, token).finally(() => running.delete(promise));
      running.add(promise);
      return promise;
    },
    { connection: client, prefix: PREFIX, ...settings },
  );
  worker.on('error', reportError);
  return {
    async close() {
      const away = client.status !== 'ready';
      if (away) {
        // BullMQ would wait for its connection, and with it for Redis.
        await worker.pause(true);
        await Promise.allSettled(running);
      }
      await worker.close(away);
      client.disconnect();
    },
  };
}

async function runJob(
  handle: (job: JobContext) => Promise<void>,
  job: Job<ProcessingJob>,
  token: string | undefined,
): Promise<void> {
  const attempt = job.attemptsMade + 1;
  try {
    await handle({ ...job.data, attempt, lastAttempt: attempt >= (job.opts.attempts ?? 1) });
  } catch (error) {
    if (error instanceof JobInterrupted) {
      await job.moveToDelayed(Date.now(), token);
      throw new DelayedError();
    }
    if (error instanceof AppError && !error.retryable) throw new UnrecoverableError(error.message);
    throw error;
  }
}
