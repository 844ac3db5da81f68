import type { RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';

/**
 * How a server comes to rest: nothing new is begun, and what has been begun is known, be its client still there or
 * not.
 */
export interface Drain {
  readonly draining: boolean;
  begin(): void;
  /** Refuses what would begin new work while draining; questions are still answered. */
  refuse: RequestHandler;
  /** The same function, whose calls `whenIdle` waits for. */
  track<A extends unknown[], R>(work: (...args: A) => R | Promise<R>): (...args: A) => Promise<R>;
  /** Waits until nothing runs any more of what is tracked. */
  whenIdle(): Promise<void>;
}

export function createDrain(): Drain {
  const running = new Set<Promise<unknown>>();
  let draining = false;
  return {
    get draining() {
      return draining;
    },
    begin() {
      draining = true;
    },
    refuse(req, res, next) {
      if (!draining) return next();
      // The next request of this client is better sent to another server.
      res.setHeader('Connection', 'close');
      if (['GET', 'HEAD', 'OPTIONS'].includes(req.method)) return next();
      throw new AppError('unavailable', { detail: 'This server shuts down: try again', retryable: true });
    },
    track(work) {
      return async (...args) => {
        const promise = (async () => work(...args))();
        running.add(promise);
        try {
          return await promise;
        } finally {
          running.delete(promise);
        }
      };
    },
    async whenIdle() {
      while (running.size > 0) await Promise.allSettled(running);
    },
  };
}
