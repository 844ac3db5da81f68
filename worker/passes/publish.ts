import type { DataSource } from 'typeorm';
import { createLimiter } from '../../core/concurrency.js';
import type { Event } from '../../core/database/entities/event.js';
import { moveCursor, readCursor } from '../../core/events/cursors.js';
import { readEventsAfter } from '../../core/events/feed.js';
import { toPublicEvent } from '../../core/events/types.js';
import type { Broker, Message } from '../nats/broker.js';

/*
 * Publishes the event log to NATS.
 *
 * The cursor says how far the log is stored in NATS. It moves after the acknowledgements. So a worker that dies in
 * between publishes events again, under the same ids, and NATS drops those that it has.
 *
 * Several messages are under way at once, but of each upload or file only one: the next is sent when NATS has stored the
 * one before. So their order holds whatever fails, is repeated, or is published by two workers at once.
 */

const READER = 'nats';

const BATCH = 500;

/** Messages that wait for their acknowledgement at a time. */
const UNDER_WAY = 64;

interface PublisherDeps {
  database: DataSource;
  broker: Broker;
}

export interface Publisher {
  /**
   * Publishes all events that are not published yet, as far as NATS takes them.
   * @returns 0: what is published all the time is not worth a line of the log
   */
  publishNew(): Promise<number>;
  /** Calls `listener` when NATS can be reached again. One listener. */
  onBack(listener: () => void): void;
}

/** All events from now on are published, even those that happen before the first pass. */
export async function createPublisher({ database, broker }: PublisherDeps): Promise<Publisher> {
  await readCursor(database, READER);
  return {
    onBack: broker.onBack,
    async publishNew() {
      while (broker.isThere()) {
        const from = await readCursor(database, READER);
        const events = await readEventsAfter(database, from, BATCH);
        const stored = await publishInOrder(broker, events);
        const to = events[stored - 1]?.seq;
        // If another worker has published too and moved the cursor, this one goes on behind its events.
        if (to) await moveCursor(database, READER, from, to);
        if (stored < BATCH) break;
      }
      return 0;
    },
  };
}

/** @returns how many events are done: those before the first one that could not be stored */
async function publishInOrder(broker: Broker, events: Event[]): Promise<number> {
  const limit = createLimiter(UNDER_WAY);
  const last = new Map<string, Promise<void>>();
  const all = events.map(async (event) => {
    const message = toMessage(event);
    if (!message) return;
    const subject = event.subjectId ?? '';
    const before = last.get(subject);
    const stored = (async () => {
      await before;
      await limit(() => broker.publish(message));
    })();
    last.set(subject, stored);
    await stored;
  });
  // The broker logs why a message was not stored.
  const outcomes = await Promise.allSettled(all);
  const failed = outcomes.findIndex(({ status }) => status === 'rejected');
  return failed === -1 ? events.length : failed;
}

/** @returns undefined for a refused request, which has done nothing: the audit log has it */
function toMessage(event: Event): Message | undefined {
  if (event.result !== 'ok') return undefined;
  return {
    // The hash tells events of several installations apart, and those of a database that was restored from a backup.
    id: `${event.seq}-${event.hash?.toString('hex', 0, 8)}`,
    subject: `landfall.${event.type}`,
    body: JSON.stringify({ ...toPublicEvent(event), ownerId: event.ownerId }),
  };
}
