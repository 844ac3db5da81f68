import { AppError } from '../errors.js';

/*
 * The requests of this process that wait for leases, in a line for each upload, the newest last.
 *
 * The newest most likely has a living client behind it, so it alone asks and tries, and is the first to get the lease;
 * the others wait until they are the newest, or until too many have come after them. So a crowd asks the database no
 * more often than one request does, and is not held for long.
 */

/** Requests that may wait for one upload in one process. */
export const MAX_WAITING = 10;

interface Waiter {
  /** Whether nobody has come after it. */
  isNewest(): boolean;
  /**
   * Waits until somebody lets go of the upload, or has since the last pause, at most `ms` milliseconds.
   * @throws {AppError} locked when too many others have come after it
   */
  pause(ms: number): Promise<void>;
  /** To be called in the end. */
  leave(): void;
}

export interface Waiters {
  /** Begins to wait for an upload. Who has waited longest gives way if there are too many. */
  join(uploadId: string): Waiter;
  /** Somebody has let go of an upload. */
  wake(uploadId: string): void;
}

/** One who waits. */
interface Entry {
  wake(): void;
}

export function createWaiters(): Waiters {
  const lines = new Map<string, Entry[]>();

  return {
    join(uploadId) {
      const line = lines.get(uploadId) ?? [];
      lines.set(uploadId, line);
      let woken = false;
      let go = () => {};
      const entry: Entry = {
        wake() {
          woken = true;
          go();
        },
      };
      line.push(entry);
      if (line.length > MAX_WAITING) line.shift()?.wake();
      return {
        isNewest: () => line.at(-1) === entry,
        async pause(ms) {
          if (!woken) {
            await new Promise<void>((resolve) => {
              const timer = setTimeout(resolve, ms);
              go = () => {
                clearTimeout(timer);
                resolve();
              };
            });
          }
          woken = false;
          if (!line.includes(entry)) throw inUse();
        },
        leave() {
          const place = line.indexOf(entry);
          if (place < 0) return;
          const wasNewest = place === line.length - 1;
          line.splice(place, 1);
          if (line.length === 0) lines.delete(uploadId);
          // What it had still to try is now for the next one to try.
          else if (wasNewest) line.at(-1)?.wake();
        },
      };
    },
    wake(uploadId) {
      for (const { wake } of lines.get(uploadId) ?? []) wake();
    },
  };
}

/** What a request is told that does not get the lease. */
export function inUse(): AppError {
  return new AppError('locked', { detail: 'Another request writes to this upload', retryable: true });
}
