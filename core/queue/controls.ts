import type { Queue } from 'bullmq';
import type { QueueControls, QueueState } from './queue.js';

/* What an admin does with the queue as a whole, and with single jobs. */

const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const;

/** @param soon runs a command, and fails soon when the queue does not answer */
export function controlsOf(bull: Queue, soon: <T>(work: () => Promise<T>) => Promise<T>): QueueControls {
  return {
    pause: () => soon(() => bull.pause()),
    resume: () => soon(() => bull.resume()),
    isPaused: () => soon(() => bull.isPaused()),
    limitRunning: (limit) =>
      soon(async () => {
        await (limit === undefined ? bull.removeGlobalConcurrency() : bull.setGlobalConcurrency(limit));
      }),
    // The user of the connection may not be allowed to ask.
    countWorkers: () => soon(() => bull.getWorkersCount().catch(() => null)),
    look: (id) => soon(async () => toState(await bull.getJobState(id))),
    remove: (id) =>
      soon(async () => {
        // 0: a worker holds the job. A job that is not there counts as removed.
        const removed = await bull.remove(id);
        return removed !== 0 || (await bull.getJobState(id)) !== 'active';
      }),
  };
}

/** BullMQ says `unknown` of a job that it does not have. */
function toState(state: string): QueueState {
  return STATES.find((one) => one === state) ?? 'missing';
}
