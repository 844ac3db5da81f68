import { AppError } from '../errors.js';

/*
 * The requests of this process that wait for leases. Each upload has a line of waiters, the newest last.
 *
 * The newest waiter most likely has a living client behind it. It alone asks the holder and tries to take the lease.
 * The others wait until they are the newest, or are refused when too many waiters have come after them. So many
 * waiters ask the database no more often than one does.
 */

/** Requests that may wait for one upload in one process. */
export const MAX_WAITING = 10;

interface Waiter {
  /** Whether no other waiter has come after it. */
  isNewest(): boolean;
  /**
   * Waits until a holder releases the upload's lease, but at most `ms` milliseconds. Returns at once if a holder
   * released it since the last pause.
   * @throws {AppError} locked when too many waiters have come after this one
   */
  pause(ms: number): Promise<void>;
  /** Must be called when the request no longer waits. */
  leave(): void;
}

export interface Waiters {
  /** Begins to wait for an upload. If the line is full, the longest waiter is refused. */
  join(uploadId: string): Waiter;
  /** To be called when a holder has released the upload's lease. */
  wake(uploadId: string): void;
}

/** A waiter in its line. */
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
          // The next waiter is now the newest: it has to ask and try from here on.
          else if (wasNewest) line.at(-1)?.wake();
        },
      };
    },
    wake(uploadId) {
      for (const { wake } of lines.get(uploadId) ?? []) wake();
    },
  };
}

/** The error for a request that does not get the lease. */
export function inUse(): AppError {
  return new AppError('locked', { detail: 'Another request writes to this upload', retryable: true });
}
