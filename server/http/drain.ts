import type { RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';

/**
 * Brings a server to rest: it begins nothing new, and it tracks running work even after a client has gone.
 */
export interface Drain {
  readonly draining: boolean;
  begin(): void;
  /** Refuses requests that would begin new work while draining; questions are still answered. */
  refuse: RequestHandler;
  /** Returns the same function; `whenIdle` waits for its calls. */
  track<A extends unknown[], R>(work: (...args: A) => R | Promise<R>): (...args: A) => Promise<R>;
  /** Waits until no tracked call runs. */
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
      // The next request of this client should go to another server.
      res.setHeader('Connection', 'close');
      if (['GET', 'HEAD', 'OPTIONS'].includes(req.method)) return next();
      throw new AppError('unavailable', {
        detail: 'This server is shutting down: try again',
        retryable: true,
      });
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
