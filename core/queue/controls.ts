import type { Queue } from 'bullmq';
import type { QueueControls, QueueState } from './queue.js';

/* What an admin does with the queue as a whole, and with single jobs. */

/** The states that are counted. */
const COUNTED = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const;

/** How many prioritized jobs are looked at to find the oldest: they stand in the order of their priorities. */
const LOOKED_AT = 200;

/**
 * With PostgreSQL BullMQ counts the waiting jobs of a paused queue under this name, which its types do not know. With Redis
 * there are none.
 */
export const WAITING_WHILE_PAUSED = 'paused' as 'waiting';

/** @param promptly runs a command, and fails soon when the queue does not answer */
export function controlsOf(bull: Queue, promptly: <T>(work: () => Promise<T>) => Promise<T>): QueueControls {
  /** When the oldest of the jobs that could run now was added. */
  async function oldestWaiting(): Promise<Date | null> {
    const [[first], prioritized] = await Promise.all([
      bull.getJobs('waiting', 0, 0, true),
      bull.getJobs('prioritized', 0, LOOKED_AT - 1, true),
    ]);
    const times = [first, ...prioritized].flatMap((job) => (job ? [job.timestamp] : []));
    return times.length > 0 ? new Date(Math.min(...times)) : null;
  }

  /** Null: the store of the queue does not tell, for example because this user may not ask. */
  const countWorkers = () => bull.getWorkersCount().catch(() => null);

  return {
    pause: () => promptly(() => bull.pause()),
    resume: () => promptly(() => bull.resume()),
    figures: () =>
      promptly(async () => {
        const [paused, { paused: pausedJobs = 0, ...counts }, oldestWaitingAt, workers] = await Promise.all([
          bull.isPaused(),
          bull.getJobCounts(...COUNTED, WAITING_WHILE_PAUSED),
          oldestWaiting(),
          countWorkers(),
        ]);
        const jobs = Object.fromEntries(COUNTED.map((state) => [state, counts[state] ?? 0]));
        jobs.waiting = (jobs.waiting ?? 0) + pausedJobs;
        return { paused, jobs: jobs as Record<(typeof COUNTED)[number], number>, oldestWaitingAt, workers };
      }),
    look: (id) => promptly(async () => toState(await bull.getJobState(id))),
    remove: (id) =>
      promptly(async () => {
        // 0: a worker holds the job. A job that is not there counts as removed.
        const removed = await bull.remove(id);
        return removed !== 0 || (await bull.getJobState(id)) !== 'active';
      }),
  };
}

/** BullMQ says `unknown` of a job that it does not have. */
function toState(state: string): QueueState {
  const known = COUNTED.find((one) => one === state);
  return known ?? 'missing';
}
