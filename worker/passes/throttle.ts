import { setTimeout as pause } from 'node:timers/promises';

/** Waits until so many further bytes may be read. Rejects when it is stopped. */
export type Throttle = (bytes: number) => Promise<void>;

/** The longest rest. A throttle that was not used for a while does not make up for that. */
const LONGEST_MS = 1_000;

/** @param rate bytes a second, on average */
export function createThrottle(rate: number, signal: AbortSignal): Throttle {
  /** When the bytes read so far were due, by performance.now(). */
  let due = 0;
  return async (bytes) => {
    due = Math.max(due, performance.now()) + (bytes / rate) * 1000;
    for (let ahead = due - performance.now(); ahead > 1; ahead = due - performance.now()) {
      await pause(Math.min(ahead, LONGEST_MS), undefined, { signal });
    }
  };
}
