import {
  createPostgresBackend,
  type DefaultJobOptions,
  type PgPool,
  Queue,
  runMigrations,
  withBackend,
} from 'bullmq';
import { DatabasePool, REQUEST_LIMITS } from '../database/client.js';
import type { Logger } from '../log.js';
import { connectRedis } from '../redis.js';
import type { ProcessingJob } from './job.js';
import { type CountedState, operations, promptly } from './verbs.js';

/*
 * The queue of processing jobs, on BullMQ, in PostgreSQL or in Redis. The worker's side is in queue/worker.ts.
 *
 * The queue is derived: PostgreSQL's `files` rows are the truth, a job only wakes a worker up. A job's id is
 * `<fileId>-<run>`, so adding it twice is harmless, and the relay adds a lost job again. Redis may therefore be away or
 * lose all its data: only the workers wait for it.
 */

/** `missing`: the queue does not know the job. `open`: it runs, waits or will be retried. */
export type JobState = 'missing' | 'open' | 'completed' | 'failed';

/** Where the queue has a job. Only `prioritized` jobs have a priority; `delayed` ones wait for their next attempt. */
export type QueueState = 'missing' | CountedState;

/** For admins. All throw soon when the queue cannot be reached. */
export interface QueueControls {
  /** Lets no worker take jobs, until `resume`, also after restarts of everything. Running jobs go on. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  isPaused(): Promise<boolean>;
  /** Sets how many jobs all workers together run at a time; undefined: no limit. Running jobs go on. */
  limitRunning(limit: number | undefined): Promise<void>;
  /** Connected workers; null: not known. */
  countWorkers(): Promise<number | null>;
  /** @param jobId see jobId() */
  look(jobId: string): Promise<QueueState>;
  /** Takes a job out of the queue. @returns false if a worker runs it, and then it stays */
  remove(jobId: string): Promise<boolean>;
}

export interface ProcessingQueue {
  readonly controls: QueueControls;
  /** Adds the jobs that are not there already. @throws soon when the queue cannot be reached */
  add(...jobs: ProcessingJob[]): Promise<void>;
  /** @throws soon when the queue cannot be reached */
  getState(job: ProcessingJob): Promise<JobState>;
  /** Lets a job that waits for its time run now; no error if it does not wait. @throws soon when the queue cannot be reached */
  wake(job: ProcessingJob): Promise<void>;
  /** How many jobs have not ended. @throws soon when the queue cannot be reached */
  countOpen(): Promise<number>;
  /** How many jobs there are in each state; of ended jobs only the last are kept. @throws soon when the queue cannot be reached */
  countByState(): Promise<Record<CountedState, number>>;
  /** When the job was added that comes next; undefined: none waits. @throws soon when the queue cannot be reached */
  waitingSince(): Promise<Date | undefined>;
  close(): Promise<void>;
  /** Whether the queue answers, as far as is known. */
  readonly reachable: boolean;
  /** Calls `listener` each time a queue that may lose jobs is back after it was away. */
  onBack?(listener: () => void): void;
  /** What Redis tells about itself (INFO); absent if the queue is in PostgreSQL. @throws soon when it cannot be reached */
  redisInfo?(): Promise<string>;
  /** For Bull Board. */
  readonly bull: Queue;
}

/** Where the queue is kept: in Redis if its address is known. */
export interface QueuePlace {
  databaseUrl: string;
  redisUrl: string | undefined;
}

export const postgres = withBackend(createPostgresBackend);

export const QUEUE = 'processing';

/** Prefix of the keys in Redis. */
export const PREFIX = 'landfall';

/**
 * Ended jobs are kept only for people who look at the board: the result of the processing is in the file's row. BullMQ
 * counts them in PostgreSQL at the end of each job, so they must be few.
 */
const KEEP_COMPLETED = { age: 10 * 60, count: 100 };
const KEEP_FAILED = { age: 60 * 60, count: 200 };

/** Connections to PostgreSQL for one queue or worker. A worker uses one of them to listen for new jobs. */
const POOL_SIZE = 5;

/** Up to half of the delay is taken off at random, so that files which failed together do not come back together. */
const BACKOFF_JITTER = 0.5;

/** Ended jobs that migrateQueue deletes at a time. */
const DELETED_AT_ONCE = 5_000;

/**
 * Creates or updates the queue's own tables, and deletes jobs that ended long ago. Earlier versions kept all ended jobs;
 * BullMQ would delete them in the transaction that ends the next job, which could take longer than a statement may.
 * @param client a connected pg.Client
 */
export async function migrateQueue(client: Parameters<typeof runMigrations>[0]): Promise<void> {
  await runMigrations(client);
  for (let deleted = DELETED_AT_ONCE; deleted === DELETED_AT_ONCE; ) {
    const { rows } = await client.query(
      `WITH deleted AS (
         DELETE FROM bullmq.job WHERE queue = $1 AND id IN (
           SELECT id FROM bullmq.job
           WHERE queue = $1 AND state IN ('completed', 'failed') AND finished_at_ms <= $2 LIMIT $3
         )
         RETURNING id
       )
       SELECT count(*)::integer AS count FROM deleted`,
      [QUEUE, Date.now() - KEEP_FAILED.age * 1000, DELETED_AT_ONCE],
    );
    deleted = rows[0]?.count;
  }
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
    removeOnComplete: KEEP_COMPLETED,
    removeOnFail: KEEP_FAILED,
  };
  return options.redisUrl
    ? openRedisQueue(options.redisUrl, options.log, defaultJobOptions)
    : openPostgresQueue(options, defaultJobOptions);
}

/** Opens our own pool for BullMQ: BullMQ's pool would not check whether a new connection is already dead. */
export function openPool(connectionString: string): PgPool {
  const pool = new DatabasePool({
    connectionString,
    max: POOL_SIZE,
    keepAlive: true,
    options: '-c search_path=bullmq',
    limits: REQUEST_LIMITS,
  });
  // BullMQ has its own types for a pool. They match pg's except for overloads.
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
    ...operations(bull as unknown as Queue, () => false),
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
  const isAway = () => ['close', 'reconnecting', 'end'].includes(client.status);
  return {
    // While Redis is away, commands wait and are carried out when it is back. Our callers do not wait for them.
    ...operations(bull, isAway),
    redisInfo: () => promptly(isAway, () => client.info()),
    onBack,
    get reachable() {
      return client.status === 'ready';
    },
    async close() {
      await bull.close();
      client.disconnect();
    },
  };
}
