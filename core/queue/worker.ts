import { setTimeout as pause } from 'node:timers/promises';
import { DelayedError, type Job, UnrecoverableError, Worker, type WorkerOptions } from 'bullmq';
import { TimedOut, within } from '../concurrency.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import { connectRedis } from '../redis.js';
import {
  ANSWER_MS,
  openPool,
  PREFIX,
  type ProcessingJob,
  postgres,
  QUEUE,
  type QueuePlace,
} from './queue.js';

/* The other end of the queue: what takes jobs and runs them. Beside queue.ts the only importer of bullmq. */

export interface ProcessingWorker {
  /** Takes no more jobs until `resume`. Jobs that run go on; one that was already asked for may still come. */
  pause(): void;
  resume(): void;
  /** Takes no more jobs and waits for the running ones. */
  close(): Promise<void>;
}

/** What a worker is told about the job it runs. */
export interface JobContext extends ProcessingJob {
  /** 1 for the first attempt. Attempts that were interrupted do not count. */
  attempt: number;
  /** Whether the job fails for good if this attempt does. */
  lastAttempt: boolean;
  /** How often a worker has died, or lost sight of the queue, while it ran this job. */
  crashes: number;
}

/** Thrown by a handler that stops through no fault of its job: the job waits for the next worker and loses no attempt. */
export class JobInterrupted extends Error {
  override name = 'JobInterrupted';
  /** @param delayMs how long the job waits at least */
  constructor(readonly delayMs = 0) {
    super();
  }
}

/** A worker that died is noticed after at most LOCK_MS + STALLED_CHECK_MS. */
const LOCK_MS = 10_000;
const STALLED_CHECK_MS = 5_000;

/** BullMQ would fail a job that has lost its worker too often without telling its handler, and so without its file. */
const NEVER = 2 ** 31 - 1;

/** How long a worker that could not reach the queue waits before it tries again; BullMQ's own 15 s are felt. */
const AFTER_OUTAGE_MS = 1_000;

/** Between two tries to put a job back: before the check for stalled jobs, which would count it as a crash. */
const PUT_BACK_EVERY_MS = 250;

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
    maxStalledCount: NEVER,
    runRetryDelay: AFTER_OUTAGE_MS,
  };
  let closing = false;
  let paused = false;
  const run: Run = async (job, token) => {
    try {
      // BullMQ may have asked for one more when it was told to close.
      if (closing) throw new JobInterrupted();
      await runJob(options.handle, job);
    } catch (error) {
      if (!(error instanceof JobInterrupted)) throw error;
      await putBack(job, token, error.delayMs, () => closing);
      throw new DelayedError();
    }
  };
  const worker = options.redisUrl
    ? startRedisWorker(options.redisUrl, options.log, settings, run)
    : startPostgresWorker(options.databaseUrl, options.log, settings, run);
  let closed: Promise<void> | undefined;
  return {
    pause() {
      paused = true;
      // It rejects only where it waits for the running jobs.
      void worker.bull.pause(true);
    },
    resume() {
      paused = false;
      // In a turn of its own: BullMQ does not begin anew while its loop is just about to end.
      setImmediate(() => {
        if (!paused && !closing) void worker.bull.resume();
      });
    },
    close() {
      closing = true;
      closed ??= worker.close();
      return closed;
    },
  };
}

type Run = (job: Job<ProcessingJob>, token?: string) => Promise<void>;
type WorkerSettings = Omit<WorkerOptions, 'connection'>;
interface StartedWorker {
  bull: Worker<ProcessingJob>;
  close(): Promise<void>;
}

function startPostgresWorker(
  databaseUrl: string,
  log: Logger,
  settings: WorkerSettings,
  run: Run,
): StartedWorker {
  const pool = openPool(databaseUrl);
  const bull = new postgres.Worker<ProcessingJob>(QUEUE, run, {
    connection: pool,
    ...settings,
  });
  let reported: string | undefined;
  bull.on('error', (error) => {
    // While the database is away each attempt fails alike.
    if (error.message !== reported) log.warn({ err: error }, 'worker connection');
    reported = error.message;
  });
  bull.on('active', () => {
    reported = undefined;
  });
  return {
    bull: bull as unknown as Worker<ProcessingJob>,
    async close() {
      await bull.close();
      await pool.end();
    },
  };
}

function startRedisWorker(url: string, log: Logger, settings: WorkerSettings, run: Run): StartedWorker {
  const { client, reportError } = connectRedis(url, log, { use: 'queue' });
  const running = new Set<Promise<void>>();
  const bull = new Worker<ProcessingJob>(
    QUEUE,
    (job, token) => {
      const promise = run(job, token).finally(() => running.delete(promise));
      running.add(promise);
      return promise;
    },
    { connection: client, prefix: PREFIX, ...settings },
  );
  bull.on('error', reportError);
  return {
    bull,
    async close() {
      const away = client.status !== 'ready';
      if (away) {
        // BullMQ would wait for its connection, and with it for Redis.
        await bull.pause(true);
        await Promise.allSettled(running);
      }
      await bull.close(away);
      client.disconnect();
    },
  };
}

async function runJob(handle: (job: JobContext) => Promise<void>, job: Job<ProcessingJob>): Promise<void> {
  const attempt = job.attemptsMade + 1;
  const lastAttempt = attempt >= (job.opts.attempts ?? 1);
  try {
    await handle({ ...job.data, attempt, lastAttempt, crashes: job.stalledCounter });
  } catch (error) {
    if (error instanceof AppError && !error.retryable) throw new UnrecoverableError(error.message);
    throw error;
  }
}

/**
 * Gives a job back to the queue, whose attempts stay as they are. Waits for a queue that is away, unless the process
 * ends: then, and when another worker has taken the job meanwhile, there is nothing to do.
 */
async function putBack(
  job: Job<ProcessingJob>,
  token: string | undefined,
  delayMs: number,
  isClosing: () => boolean,
): Promise<void> {
  let moving: Promise<void> | undefined;
  for (;;) {
    try {
      moving ??= job.moveToDelayed(Date.now() + delayMs, token);
      await within(ANSWER_MS, moving, 'queue');
      return;
    } catch (error) {
      // BullMQ numbers its refusals: the job is gone, or another worker has it.
      const isRefused = error instanceof Error && 'code' in error && typeof error.code === 'number';
      if (isRefused || isClosing()) return;
      // A command that waits for Redis is carried out when that is back: no second one is to wait behind it.
      if (!(error instanceof TimedOut)) moving = undefined;
      await pause(PUT_BACK_EVERY_MS);
    }
  }
}
