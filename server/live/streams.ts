import type { Response } from 'express';
import type { DataSource } from 'typeorm';
import { createLimiter } from '../../core/concurrency.js';
import type { Listener } from '../../core/database/listen.js';
import { AppError } from '../../core/errors.js';
import { openFeed } from '../../core/events/feed.js';
import { readHead } from '../../core/events/sequence.js';
import type { Logger } from '../../core/log.js';
import { requireStillValid } from '../auth/still-valid.js';
import { createStream, type Wish } from './stream.js';

/* The open streams of live events of this server. */

export interface Streams {
  /**
   * Answers with a stream of events. Resolves when the stream has ended.
   * @throws {AppError} rate_limited when the user has too many open streams; gone when the log does not reach as far as
   * `after`; unauthenticated when the caller's session, key or account has ended
   */
  open(res: Response, wish: Wish): Promise<void>;
  /** Ends all streams, and each further one right after its beginning, in a way that clients come back elsewhere. */
  drain(): void;
  /** Call it after all streams have ended. */
  close(): Promise<void>;
}

/** Of one user, on one server. */
const MAX_STREAMS = 20;

/** How many streams read the log at once: long readings must leave connections to the database for other requests. */
const READERS = 4;

/** How long a client should wait that has too many, in seconds. */
const RETRY_AFTER_SECONDS = 10;

/** Opens the feed that all streams of this server share. */
export async function openStreams(deps: {
  database: DataSource;
  listener: Listener;
  log: Logger;
}): Promise<Streams> {
  const { database, log } = deps;
  const feed = await openFeed(deps);
  const limitReads = createLimiter(READERS);
  const counts = new Map<string, number>();
  /** Ends an open stream. */
  const ends = new Set<() => void>();
  let draining = false;

  function enter(userId: string, res: Response): void {
    const count = counts.get(userId) ?? 0;
    if (count >= MAX_STREAMS) {
      res.setHeader('Retry-After', RETRY_AFTER_SECONDS);
      throw new AppError('rate_limited', {
        detail: `${count} streams of yours are open on this server: close one first`,
        retryable: true,
      });
    }
    counts.set(userId, count + 1);
  }

  function leave(userId: string): void {
    const count = counts.get(userId) ?? 0;
    if (count > 1) counts.set(userId, count - 1);
    else counts.delete(userId);
  }

  return {
    async open(res, wish) {
      const { principal, after } = wish;
      enter(principal.userId, res);
      const stream = createStream({ database, feed, limitReads, log }, res, wish);
      try {
        // From here on the feed tells of everything that the next statements do not see.
        await stream.subscribe();
        const [{ seq }] = await Promise.all([readHead(database), requireStillValid(database, principal)]);
        if (after !== undefined && after > seq) throw notInLog(after, seq);
        ends.add(stream.end);
        if (draining) stream.end();
        stream.begin(after ?? seq);
        await stream.closed;
      } finally {
        ends.delete(stream.end);
        stream.release();
        leave(principal.userId);
      }
    },
    drain() {
      draining = true;
      for (const end of ends) end();
    },
    close: () => feed.close(),
  };
}

function notInLog(after: number, last: number): AppError {
  return new AppError('gone', {
    detail: `Event ${after} is not in the log, whose last one is ${last}: read the lists again, then connect without an id`,
  });
}
