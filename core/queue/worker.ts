import { setTimeout as pause } from 'node:timers/promises';
import { DelayedError, type Job, UnrecoverableError, Worker, type WorkerOptions } from 'bullmq';
import { TimedOut, untilAborted, within } from '../concurrency.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import { connectRedis } from '../redis.js';
import { jobId, type ProcessingJob } from './job.js';
import { openPool, PREFIX, postgres, QUEUE, type QueuePlace } from './queue.js';
import { ANSWER_MS, isRefusal } from './verbs.js';

/* The worker's side of the queue: takes jobs and runs them. Besides queue.ts the only importer of bullmq. */

export interface ProcessingWorker {
  /** Takes no more jobs until `resume`. Running jobs go on; one job that was already requested may still start. */
  pause(): void;
  resume(): void;
  /** The jobs that run now. */
  running(): ProcessingJob[];
  /** Tells a job to stop, if this worker runs it: its file needs no processing any more. The job counts as completed. */
  stop(job: ProcessingJob): void;
  /** Tells all running jobs to stop. They wait for the next worker and keep their attempts. */
  interrupt(): void;
  /** Takes no more jobs and waits for the running ones. */
  close(): Promise<void>;
}

/** A job and the state of its attempts, for its handler. */
export interface JobContext extends ProcessingJob {
  /** 1 for the first attempt. Attempts that were interrupted do not count. */
  attempt: number;
  /** Whether the job fails for good if this attempt does. */
  lastAttempt: boolean;
  /** How often a worker died, or lost its connection to the queue, while it ran this job. */
  crashes: number;
  /** Aborts when the job must stop. A handler that does not end within STOP_MS is given up. */
  signal: AbortSignal;
}

/** Thrown by a handler that stops without fault of its job: the job waits for the next worker and keeps its attempts. */
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

/**
 * BullMQ would fail a job that has lost its worker too often without calling the handler, so the file's row would not
 * change. This limit is never reached.
 */
const NEVER = 2 ** 31 - 1;

/** How long a handler may take to end after it was told to stop. Then the next job takes its slot. */
const STOP_MS = 250;

/** Why a job was told to stop: its file needs no processing, or the process shuts down. */
const OVER = 'over';
const SHUTDOWN = 'shutdown';

/** How long a worker that could not reach the queue waits before it tries again; BullMQ's default of 15 s is too long. */
const AFTER_OUTAGE_MS = 1_000;

/** Pause between tries to put a job back. Short, because the check for stalled jobs would count the job as a crash. */
const PUT_BACK_EVERY_MS = 250;

/**
 * Starts to work on jobs: `handle` runs up to `concurrency` times at once. When it throws, the job is tried again after
 * the backoff, except for an AppError that is not retryable.
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
  const running = new Map<string, ProcessingJob>();
  const run: Run = async (job, token, signal = new AbortController().signal) => {
    try {
      // BullMQ may already have requested one more job when it was told to close.
      if (closing) throw new JobInterrupted();
      running.set(jobId(job.data), job.data);
      await runJob(options.handle, job, signal);
    } catch (error) {
      if (signal.reason === OVER) return;
      const interruption = signal.aborted ? new JobInterrupted() : error;
      if (!(interruption instanceof JobInterrupted)) throw error;
      await putBack(job, token, interruption.delayMs, () => closing);
      throw new DelayedError();
    } finally {
      running.delete(jobId(job.data));
    }
  };
  const worker = options.redisUrl
    ? startRedisWorker(options.redisUrl, options.log, settings, run)
    : startPostgresWorker(options.databaseUrl, options.log, settings, run);
  let closed: Promise<void> | undefined;
  return {
    pause() {
      paused = true;
      // pause() rejects only when it waits for the running jobs.
      void worker.bull.pause(true);
    },
    resume() {
      paused = false;
      // In a later turn of the event loop: BullMQ does not start again while its loop is about to end.
      setImmediate(() => {
        if (!paused && !closing) void worker.bull.resume();
      });
    },
    running: () => [...running.values()],
    stop(job) {
      worker.bull.cancelJob(jobId(job), OVER);
    },
    interrupt() {
      worker.bull.cancelAllJobs(SHUTDOWN);
    },
    close() {
      closing = true;
      closed ??= worker.close();
      return closed;
    },
  };
}

type Run = (job: Job<ProcessingJob>, token?: string, signal?: AbortSignal) => Promise<void>;
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
  // BullMQ passes its signal only to a function that declares three parameters.
  const bull = new postgres.Worker<ProcessingJob>(QUEUE, (job, token, signal) => run(job, token, signal), {
    connection: pool,
    ...settings,
  });
  let reported: string | undefined;
  bull.on('error', (error) => {
    // While the database is away, each attempt fails with the same message.
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
    (job, token, signal) => {
      const promise = run(job, token, signal).finally(() => running.delete(promise));
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

async function runJob(
  handle: (job: JobContext) => Promise<void>,
  job: Job<ProcessingJob>,
  signal: AbortSignal,
): Promise<void> {
  const attempt = job.attemptsMade + 1;
  const lastAttempt = attempt >= (job.opts.attempts ?? 1);
  const context = { ...job.data, attempt, lastAttempt, crashes: job.stalledCounter, signal };
  try {
    await untilAborted(signal, STOP_MS, handle(context));
  } catch (error) {
    if (error instanceof AppError && !error.retryable) throw new UnrecoverableError(error.message);
    throw error;
  }
}

/**
 * Gives a job back to the queue; the job keeps its attempts. Waits while the queue is away, unless the process is ending.
 * Then, and when another worker has taken the job, there is nothing to do.
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
      // A refusal means that the job is gone, or that another worker has it.
      if (isRefusal(error) || isClosing()) return;
      // A command that waits for Redis is carried out when Redis is back: do not queue a second one behind it.
      if (!(error instanceof TimedOut)) moving = undefined;
      await pause(PUT_BACK_EVERY_MS);
    }
  }
}
