import { setTimeout as pause } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { TimedOut, within } from '../concurrency.js';
import { AppError } from '../errors.js';
import { controlsOf } from './controls.js';
import { jobId, type ProcessingJob } from './job.js';
import type { ProcessingQueue } from './queue.js';

/* The questions and commands to a queue of BullMQ, whether it is in PostgreSQL or in Redis. */

/** BullMQ's names for the states of jobs that wait for a worker, and of those that have not ended. */
const WAITING = ['waiting', 'prioritized'] as const;
const OPEN = [...WAITING, 'delayed', 'active'] as const;
const COUNTED = [...OPEN, 'completed', 'failed'] as const;

/**
 * With PostgreSQL BullMQ counts the waiting jobs of a paused queue under this name, which its types do not know. With Redis
 * there are none.
 */
const WAITING_WHILE_PAUSED = 'paused' as string as 'wait';

export type CountedState = (typeof COUNTED)[number];

/** How long the queue may take to answer. After that the relay adds the job, because the client's upload waits. */
export const ANSWER_MS = 1_500;

/** Pause between two looks at a job that is to be woken up. */
const WAKE_PAUSE_MS = 50;

/** @param isAway whether it is known that the queue does not answer */
export function operations(
  bull: Queue<ProcessingJob>,
  isAway: () => boolean,
): Pick<
  ProcessingQueue,
  'add' | 'getState' | 'wake' | 'countOpen' | 'countByState' | 'waitingSince' | 'controls' | 'bull'
> {
  const soon = <T>(work: () => Promise<T>) => promptly(isAway, work);
  return {
    bull,
    controls: controlsOf(bull, soon),
    async add(...jobs) {
      const entries = jobs.map(({ priority, ...data }) => ({
        name: 'process',
        data,
        opts: { jobId: jobId(data), ...(priority ? { priority } : {}) },
      }));
      await soon(() => bull.addBulk(entries));
    },
    async getState(job) {
      const id = jobId(job);
      const found = await soon(() => bull.getJob(id));
      if (!found) return 'missing';
      // For a job that has not ended, getJobState would search the list of all waiting jobs.
      if (!found.finishedOn) return 'open';
      const state = await soon(() => bull.getJobState(id));
      if (state === 'completed' || state === 'failed') return state;
      return state === 'unknown' ? 'missing' : 'open';
    },
    wake: (job) =>
      soon(async () => {
        // An active job may have recorded that it waits, and be about to go back to the queue.
        for (const end = Date.now() + ANSWER_MS; ; await pause(WAKE_PAUSE_MS)) {
          const found = await bull.getJob(jobId(job));
          // Asked first: a job that goes back between the two questions is then found delayed.
          const isActive = await found?.isActive();
          if (await found?.isDelayed()) return found?.promote().catch(ignoreRefusal);
          if (!isActive || Date.now() >= end) return;
        }
      }),
    countOpen: () => soon(() => bull.getJobCountByTypes(...OPEN, WAITING_WHILE_PAUSED)),
    countByState: () =>
      soon(async () => {
        const { [WAITING_WHILE_PAUSED]: held = 0, ...counts } = await bull.getJobCounts(
          ...COUNTED,
          WAITING_WHILE_PAUSED,
        );
        return { ...counts, waiting: (counts.waiting ?? 0) + held } as Record<CountedState, number>;
      }),
    waitingSince: () =>
      soon(async () => {
        // The first of each state: those without a priority are in the order of their arrival.
        const first = await Promise.all(WAITING.map((state) => bull.getJobs([state], 0, 0, true)));
        const times = first.flat().map((job) => job.timestamp);
        return times.length > 0 ? new Date(Math.min(...times)) : undefined;
      }),
  };
}

/** Limits how long callers wait. A command that takes longer is still carried out. */
export async function promptly<T>(isAway: () => boolean, work: () => Promise<T>): Promise<T> {
  if (isAway()) throw queueAway();
  return within(ANSWER_MS, work(), 'queue').catch((error: unknown) => {
    throw error instanceof TimedOut ? queueAway() : error;
  });
}

/** Whether BullMQ has refused a command because the job is gone or in another state. It numbers its refusals. */
export function isRefusal(error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'number';
}

/** The job has begun to run by itself. */
function ignoreRefusal(error: unknown): void {
  if (!isRefusal(error)) throw error;
}

function queueAway(): AppError {
  return new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
}
