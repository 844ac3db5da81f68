import {
  createPostgresBackend,
  DelayedError,
  type Queue,
  runMigrations,
  UnrecoverableError,
  withBackend,
} from 'bullmq';
import { AppError } from './errors.js';
import type { Logger } from './log.js';

/*
 * The queue of processing jobs, on BullMQ. The only importer of bullmq.
 *
 * The queue is derived: PostgreSQL's `files` rows are the truth, a job only wakes a worker up. A job's id is
 * `<fileId>-<run>`, so adding it twice is harmless, and a job that was lost is added again by the relay.
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
  /** Adds the job unless it is there already. */
  add(job: ProcessingJob): Promise<void>;
  getState(job: ProcessingJob): Promise<JobState>;
  close(): Promise<void>;
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

const bullmq = withBackend(createPostgresBackend);

const QUEUE = 'processing';

/** A worker that died is noticed after at most LOCK_MS + STALLED_CHECK_MS. */
const LOCK_MS = 10_000;
const STALLED_CHECK_MS = 5_000;

/** How often a job may lose its worker before it fails: crashes are rarely the file's fault (parsers are children). */
const MAX_STALLED = 10;

/** How long a worker that could not reach the queue waits before it tries again; BullMQ's own 15 s are felt. */
const AFTER_OUTAGE_MS = 1_000;

const KEEP_COMPLETED_SECONDS = 24 * 3600;

/** Connections to PostgreSQL for one queue or worker; one more listens for wake-ups. */
const POOL_SIZE = 4;

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
 * Opens the queue for adding jobs.
 * @param options.attempts how often a job is tried in all
 * @param options.backoffMs delay before the second attempt, doubled for each further one
 */
export function openQueue(options: {
  databaseUrl: string;
  attempts: number;
  backoffMs: number;
  log: Logger;
}): ProcessingQueue {
  const bull = new bullmq.Queue<ProcessingJob>(QUEUE, {
    connection: { connectionString: options.databaseUrl, max: POOL_SIZE },
    defaultJobOptions: {
      attempts: options.attempts,
      backoff: { type: 'exponential', delay: options.backoffMs, jitter: BACKOFF_JITTER },
      removeOnComplete: { age: KEEP_COMPLETED_SECONDS },
    },
  });
  bull.on('error', (error) => options.log.warn({ err: error }, 'queue connection'));
  return {
    bull: bull as unknown as Queue,
    async add(job) {
      await bull.add('process', job, { jobId: jobId(job) });
    },
    async getState(job) {
      const found = await bull.getJob(jobId(job));
      if (!found) return 'missing';
      const state = await found.getState();
      if (state === 'completed' || state === 'failed') return state;
      return state === 'unknown' ? 'missing' : 'open';
    },
    close: () => bull.close(),
  };
}

/**
 * Starts to work on jobs: `handle` runs up to `concurrency` times at once. What it throws is tried again after
 * the backoff, except an AppError that is not retryable.
 */
export function startWorker(options: {
  databaseUrl: string;
  concurrency: number;
  log: Logger;
  handle: (job: JobContext) => Promise<void>;
}): ProcessingWorker {
  const worker = new bullmq.Worker<ProcessingJob>(
    QUEUE,
    async (job, token) => {
      const attempt = job.attemptsMade + 1;
      try {
        await options.handle({ ...job.data, attempt, lastAttempt: attempt >= (job.opts.attempts ?? 1) });
      } catch (error) {
        if (error instanceof JobInterrupted) {
          await job.moveToDelayed(Date.now(), token);
          throw new DelayedError();
        }
        if (error instanceof AppError && !error.retryable) throw new UnrecoverableError(error.message);
        throw error;
      }
    },
    {
      connection: { connectionString: options.databaseUrl, max: POOL_SIZE },
      concurrency: options.concurrency,
      lockDuration: LOCK_MS,
      stalledInterval: STALLED_CHECK_MS,
      maxStalledCount: MAX_STALLED,
      runRetryDelay: AFTER_OUTAGE_MS,
    },
  );
  worker.on('error', (error) => options.log.warn({ err: error }, 'worker connection'));
  return { close: () => worker.close() };
}
