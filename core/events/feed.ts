import type { DataSource } from 'typeorm';
import { Event } from '../database/entities/event.js';
import type { Listener } from '../database/listen.js';
import { queryEntities } from '../database/rows.js';
import type { Logger } from '../log.js';
import { GROWN, readHead } from './sequence.js';

/*
 * Tells subscribers in this process of new events, in the order of their numbers.
 *
 * One tail follows the log for all subscribers. It reads on when PostgreSQL notifies it that the log has grown, and also
 * from time to time, because notifications can be lost. It reads nothing while there are no subscribers.
 */

const BATCH = 500;

/** How often the tail reads without a notification, in milliseconds. */
const LOOK_EVERY_MS = 5_000;

export interface EventFeed {
  /**
   * Calls `handle` with each event of this owner that is numbered from now on, in order.
   * @param ownerId undefined: all events, with or without an owner
   * @returns a function that ends the subscription
   */
  subscribe(ownerId: string | undefined, handle: (event: Event) => void): Promise<() => void>;
  close(): Promise<void>;
}

/** The first `limit` events after a number, in order. @param ownerId undefined: all events, with or without an owner */
export async function readEventsAfter(
  database: DataSource,
  seq: number,
  limit: number,
  ownerId?: string,
): Promise<Event[]> {
  return queryEntities(
    database,
    Event,
    `SELECT * FROM events WHERE seq > $1 AND ($3::uuid IS NULL OR owner_id = $3) ORDER BY seq LIMIT $2`,
    [seq, limit, ownerId ?? null],
  );
}

/** Opens the feed of this process. */
export async function openFeed(deps: {
  database: DataSource;
  listener: Listener;
  log: Logger;
}): Promise<EventFeed> {
  const { database, listener, log } = deps;
  const byOwner = new Map<string | undefined, Set<(event: Event) => void>>();
  /** The number up to which subscribers were told; undefined while there are none. */
  let last: number | undefined;
  let reading: Promise<void> | undefined;
  let again = false;

  function dispatch(event: Event): void {
    for (const owner of new Set([event.ownerId ?? undefined, undefined])) {
      for (const handle of byOwner.get(owner) ?? []) {
        // One subscriber that fails must not keep the event from the others.
        try {
          handle(event);
        } catch (error) {
          log.warn({ err: error, seq: event.seq }, 'a subscriber failed at an event');
        }
      }
    }
  }

  async function readOn(): Promise<void> {
    while (last !== undefined) {
      const events = await readEventsAfter(database, last, BATCH);
      for (const event of events) {
        // Others may have subscribed meanwhile, at a later place of the log.
        if (last === undefined || event.seq === null || event.seq <= last) continue;
        last = event.seq;
        dispatch(event);
      }
      if (events.length < BATCH) return;
    }
  }

  function look(): void {
    if (last === undefined) return;
    if (reading) {
      again = true;
      return;
    }
    reading = readOn()
      .catch((error: unknown) => log.warn({ err: error }, 'events could not be read'))
      .finally(() => {
        reading = undefined;
        if (!again) return;
        again = false;
        look();
      });
  }

  await listener.subscribe(GROWN, look);
  const timer = setInterval(look, LOOK_EVERY_MS);
  timer.unref();

  return {
    async subscribe(ownerId, handle) {
      const head = await readHead(database);
      const handles = byOwner.get(ownerId) ?? new Set();
      byOwner.set(ownerId, handles.add(handle));
      last ??= head.seq;
      return () => {
        handles.delete(handle);
        if (handles.size === 0 && byOwner.get(ownerId) === handles) byOwner.delete(ownerId);
        if (byOwner.size === 0) last = undefined;
      };
    },
    async close() {
      clearInterval(timer);
      last = undefined;
      await reading;
    },
  };
}
