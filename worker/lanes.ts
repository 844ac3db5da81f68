import { JobInterrupted } from '../core/queue/worker.js';

/*
 * Keeps large files from taking all slots of a worker: one slot stays free for smaller files, so that a few long videos do
 * not hold up a thousand photographs. A large file that finds no slot goes back to the queue for a moment.
 */

/** From this size on a file is large: reading it alone takes a second or more. Bytes. */
const LARGE = 256 * 1024 ** 2;

/** How long a large file stays away at least, in milliseconds. */
const AWAY_MS = 1_000;

/**
 * Large files that find no slot come back behind each other at this distance, in milliseconds, so that a long queue of them
 * costs the worker little. None stays away for longer than LONGEST_MS.
 */
const APART_MS = 100;
const LONGEST_MS = 60_000;

export interface Lanes {
  /**
   * Runs the job of a file in the slot that it has got.
   * @param size bytes of the file; undefined: unknown
   * @throws {JobInterrupted} when the job must wait
   */
  run<T>(size: number | undefined, job: () => Promise<T>): Promise<T>;
}

/** @param slots how many jobs the worker runs at a time */
export function createLanes(slots: number): Lanes {
  const most = Math.max(1, slots - 1);
  let running = 0;
  /** When the last of those that went away comes back, in milliseconds of performance.now(). */
  let lastBack = 0;

  return {
    async run(size, job) {
      if (size === undefined || size < LARGE) return job();
      if (running >= most) {
        const now = performance.now();
        lastBack = Math.min(Math.max(lastBack + APART_MS, now + AWAY_MS), now + LONGEST_MS);
        throw new JobInterrupted(Math.ceil(lastBack - now));
      }
      running++;
      try {
        return await job();
      } finally {
        running--;
      }
    },
  };
}
