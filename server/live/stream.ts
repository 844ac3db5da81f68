import type { Response } from 'express';
import type { DataSource } from 'typeorm';
import type { Limiter } from '../../core/concurrency.js';
import type { Event } from '../../core/database/entities/event.js';
import { type EventFeed, readEventsAfter } from '../../core/events/feed.js';
import { isFileEvent } from '../../core/events/types.js';
import type { Logger } from '../../core/log.js';
import type { Principal } from '../auth/principal.js';
import { requireStillValid } from '../auth/still-valid.js';
import { createFollower, type Follower } from './follower.js';
import { createSseWriter } from './sse.js';

/*
 * One stream shows a user the events of that user's uploads and files, and nothing else.
 *
 * It lasts no longer than the right to it. It ends when the token, the key or the link expires. The event log tells when
 * something happens to the account, its sessions or its keys; then the stream asks the database whether its caller is
 * still admitted.
 */

interface StreamDeps {
  database: DataSource;
  feed: EventFeed;
  /** Bounds how many streams read the log at once. */
  limitReads: Limiter;
  log: Logger;
}

export interface Wish {
  principal: Principal;
  /** The number of the last event that the client has; undefined: it wants only new ones. */
  after: number | undefined;
  /** Which of the user's events of uploads and files to send. */
  isWanted(event: Event): boolean;
}

interface Stream {
  /** Resolves when the client is gone or has got all of the answer. */
  closed: Promise<void>;
  /** Lets the feed tell the stream what happens from now on. */
  subscribe(): Promise<void>;
  /** Begins the answer. @param after the number of the last event that the client has */
  begin(after: number): void;
  /** Ends the answer in a way that the client comes back; if it has not begun, it ends right after its beginning. */
  end(): void;
  /** Stops all work for the stream. */
  release(): void;
}

/**
 * How often a stream sends a comment, in milliseconds. Proxies cut connections that are silent for a minute, haproxy.cfg
 * after 130 s; some mobile networks forget them after 30 s.
 */
const HEARTBEAT_MS = 15_000;

export function createStream(
  { database, feed, limitReads, log }: StreamDeps,
  res: Response,
  { principal, after: known, isWanted }: Wish,
): Stream {
  const { userId, expiresAt } = principal;
  const expiry = expiresAt?.getTime() ?? Number.POSITIVE_INFINITY;
  const writer = createSseWriter(res, known);
  let unsubscribe = () => {};
  let timer: NodeJS.Timeout | undefined;
  /** Undefined: the answer has not begun. */
  let follower: Follower | undefined;
  let isOver = false;

  function end(): void {
    isOver = true;
    if (!follower) return;
    release();
    writer.end();
  }

  function release(): void {
    clearTimeout(timer);
    unsubscribe();
    follower?.stop();
  }

  function beat(): void {
    const left = expiry - Date.now();
    if (left <= 0) {
      end();
      return;
    }
    writer.sendComment();
    timer = setTimeout(beat, Math.min(HEARTBEAT_MS, left));
  }

  function follow(after: number): Follower {
    const created = createFollower(after, {
      read: (seq, limit) => limitReads(() => readEventsAfter(database, seq, limit, userId)),
      give: (event) => (isFileEvent(event) && isWanted(event) ? writer.sendEvent(event) : true),
      // A client that gets few of the events need not begin far back when it resumes.
      onUpToDate: () => writer.sendPlace(created.position),
      onFailure(error) {
        log.debug({ err: error }, 'a stream of events could not read the log');
        end();
      },
    });
    return created;
  }

  return {
    closed: whenClosed(res),
    end,
    release,
    async subscribe() {
      unsubscribe = await feed.subscribe(userId, (event) => {
        // If the database cannot tell, the client has to ask again.
        if (!isFileEvent(event)) requireStillValid(database, principal).catch(end);
        follower?.hear(event);
      });
    },
    begin(after) {
      follower = follow(after);
      writer.begin();
      if (isOver) {
        end();
        return;
      }
      res.on('drain', follower.goOn);
      follower.goOn();
      beat();
    },
  };
}

function whenClosed(res: Response): Promise<void> {
  return new Promise((resolve) => {
    // The client may have gone before its request came here.
    if (res.destroyed) resolve();
    else res.once('close', resolve);
  });
}
