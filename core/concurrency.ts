/* The only place for tools that bound how long work takes and how much of it runs at once. */

/** Work did not settle in time. It goes on, and its outcome is ignored. */
export class TimedOut extends Error {
  override name = 'TimedOut';
}

/**
 * Waits for `work`, but no longer than `ms` milliseconds. The work itself is not stopped.
 * @param what names the work in the error's message
 * @throws {TimedOut} when it has not settled by then; what `work` rejects with
 */
export async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimedOut(`${what}: no answer within ${ms} ms`)), ms);
  });
  // After a timeout nobody listens to `work` any more: its failure must not end the process.
  work.catch(() => {});
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/**
 * Calls `act` with each item, `limit` at a time.
 * @throws what `act` throws first; calls that have begun by then go on, and no further ones begin
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

/** Runs work as soon as its turn comes. */
export type Limiter = <T>(work: () => Promise<T>) => Promise<T>;

/** @returns what runs `limit` pieces of work at once, in the order in which they came. They must not wait for each other. */
export function createLimiter(limit: number): Limiter {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (work) => {
    if (running < limit) running++;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      // Whoever ends hands its turn over.
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
}
