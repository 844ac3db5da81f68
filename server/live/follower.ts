import type { Event } from '../../core/database/entities/event.js';

/*
 * Takes one reader through the event log and then along with it: no event is left out, none comes twice.
 *
 * The log is the only memory. A follower reads it up to its end and then takes each new event from the feed. Events that
 * the feed tells during the reading are not kept: the follower only notes that there are some, and reads on. When the
 * reader is full, the follower stops, and reads the log again once the reader has room. So a reader that is slow, or
 * that was away for weeks, costs no more memory than one that is up to date.
 *
 * Nothing is lost at the hand-over, because the caller subscribes to the feed before the follower begins. An event that
 * is committed after the last reading of the log is told by the feed after that; if it is told before the reading has
 * ended, it has been noted.
 */

export interface Follower {
  /** The number of the last event that the reader got or did not want. */
  readonly position: number;
  /** Begins, or goes on when the reader has room again. Does nothing while the follower is at work. */
  goOn(): void;
  /** Takes the next event of the feed. */
  hear(event: Event): void;
  stop(): void;
}

interface FollowerDeps {
  /** Reads the next `limit` events of the log after a number, in order. */
  read(after: number, limit: number): Promise<Event[]>;
  /** Gives an event to the reader. Returns false if the reader has no room for another one. */
  give(event: Event): boolean;
  /** Called each time that the follower has reached the end of the log. */
  onUpToDate(): void;
  /** The log could not be read; the follower has stopped. */
  onFailure(error: unknown): void;
}

/** How many events are read at a time. */
export const BATCH = 100;

/** @param after the number of the last event that the reader has */
export function createFollower(after: number, deps: FollowerDeps): Follower {
  let state: 'waiting' | 'reading' | 'live' | 'stopped' = 'waiting';
  let position = after;
  /** The newest event that the feed has told. */
  let heard = 0;

  async function readOn(): Promise<void> {
    for (;;) {
      const events = await deps.read(position, BATCH);
      for (const event of events) {
        // The reader may end while it is given an event.
        if (state !== 'reading') return;
        take(event);
      }
      if (state !== 'reading') return;
      if (events.length < BATCH && heard <= position) break;
    }
    state = 'live';
    deps.onUpToDate();
  }

  function take(event: Event): void {
    position = numberOf(event);
    if (!deps.give(event) && state !== 'stopped') state = 'waiting';
  }

  return {
    get position() {
      return position;
    },
    goOn() {
      if (state !== 'waiting') return;
      state = 'reading';
      readOn().catch((error: unknown) => {
        state = 'stopped';
        deps.onFailure(error);
      });
    },
    hear(event) {
      heard = numberOf(event);
      if (state === 'live' && heard > position) take(event);
    },
    stop() {
      state = 'stopped';
    },
  };
}

/** Events of the log and of the feed have numbers. */
function numberOf({ seq }: Event): number {
  return seq ?? 0;
}
