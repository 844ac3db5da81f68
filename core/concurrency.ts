/* The only place for tools that bound how long work takes and how much of it runs at once. */

/** Work did not settle in time. The work goes on, and its outcome is ignored. */
export class TimedOut extends Error {
  override name = 'TimedOut';
}

/**
 * Waits for `work`, but no longer than `ms` milliseconds. The work itself is not stopped.
 * @param what names the work in the error's message
 * @throws {TimedOut} when `work` has not settled by then; the error that `work` rejects with
 */
export async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimedOut(`${what}: no answer within ${ms} ms`)), ms);
  });
  // After a timeout nothing handles `work` any more: its rejection must not end the process.
  work.catch(() => {});
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/**
 * Waits for `work`; after `signal` aborts, no longer than `graceMs` milliseconds.
 * @param work must stop by itself when `signal` aborts; if it does not, it is given up and its outcome is ignored
 * @throws the signal's reason when `work` was given up; the error that `work` rejects with
 */
export async function untilAborted<T>(signal: AbortSignal, graceMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort = () => {};
  const givenUp = new Promise<never>((_, reject) => {
    onAbort = () => {
      timer = setTimeout(() => reject(signal.reason), graceMs);
    };
  });
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort);
  // Once it is given up, nothing handles its rejection any more.
  work.catch(() => {});
  return Promise.race([work, givenUp]).finally(() => {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  });
}

/**
 * Calls `act` with each item, `limit` at a time.
 * @throws the first error of `act`; calls that have begun by then go on, and no further calls begin
 */
export async function forEachOf<T>(
  items: Iterable<T>,
  limit: number,
  act: (item: T) => Promise<void>,
): Promise<void> {
  const waiting = items[Symbol.iterator]();
  let failed = false;
  const work = async () => {
    for (let next = waiting.next(); !next.done && !failed; next = waiting.next()) {
      await act(next.value).catch((error: unknown) => {
        failed = true;
        throw error;
      });
    }
  };
  await Promise.all(Array.from({ length: limit }, work));
}

/** Runs work as soon as its turn comes. A signal that aborts before ends the waiting: @throws its reason */
export type Limiter = <T>(work: () => Promise<T>, signal?: AbortSignal) => Promise<T>;

/** @returns a limiter that runs `limit` pieces of work at once, in order of arrival. They must not wait for each other. */
export function createLimiter(limit: number): Limiter {
  const waiting: (() => void)[] = [];
  let running = 0;
  const turn = (signal: AbortSignal | undefined) =>
    new Promise<void>((resolve, reject) => {
      const take = () => {
        signal?.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        waiting.splice(waiting.indexOf(take), 1);
        reject(signal?.reason);
      };
      signal?.addEventListener('abort', leave, { once: true });
      waiting.push(take);
    });
  return async (work, signal) => {
    signal?.throwIfAborted();
    if (running < limit) running++;
    else await turn(signal);
    try {
      return await work();
    } finally {
      // Work that has ended hands its turn to the next.
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
}
