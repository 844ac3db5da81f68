import type { DataSource, EntityManager } from 'typeorm';
import { Event } from './database/entities/event.js';
import { countChanged } from './database/rows.js';

/*
 * The append-only event log: the one source of a file's timeline and of everything that will be told to others.
 *
 * Events are appended inside the transaction that makes them true, without any order among transactions: an
 * identity column is handed out at insert, so a row with a low number can become visible after one with a higher
 * number, and a reader that remembers "the last number I saw" would skip it. The sequencer therefore numbers
 * committed rows afterwards, one sequencer at a time, without gaps. Cursors go by `seq` only.
 */

export interface NewEvent {
  type: EventType;
  /** Upload or file. */
  subjectId: string;
  ownerId: string | null;
  data?: Record<string, unknown>;
}

export type EventType =
  | 'upload.created'
  | 'upload.expired'
  | 'upload.terminated'
  | 'file.created'
  | 'file.processing'
  | 'file.step'
  | 'file.completed'
  | 'file.failed'
  | 'file.infected'
  | 'file.deleted'
  | 'file.purged';

/** Key of the advisory lock ("seqn" in ASCII) that lets one sequencer run at a time. */
const SEQUENCER_LOCK = 0x7365716e;

const SEQUENCE_BATCH = 1000;

/**
 * Begins an INSERT of one event inside a statement that changes what it tells of; a SELECT of type, subject, owner and
 * data follows. For where each further statement would be felt.
 */
export const APPEND_EVENT_OF = 'INSERT INTO events (type, subject_id, owner_id, data)';

/** Appends to the log; part of the caller's transaction. */
export async function appendEvents(manager: EntityManager, events: NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await manager.query(
    `${APPEND_EVENT_OF}
     SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::jsonb[])`,
    [
      events.map((event) => event.type),
      events.map((event) => event.subjectId),
      events.map((event) => event.ownerId),
      events.map((event) => JSON.stringify(event.data ?? {})),
    ],
  );
}

/** Gives `seq` to committed events that have none yet. Returns how many there were. */
export async function sequenceEvents(database: DataSource): Promise<number> {
  let total = 0;
  for (;;) {
    const numbered = await sequenceBatch(database);
    total += numbered;
    if (numbered < SEQUENCE_BATCH) return total;
  }
}

async function sequenceBatch(database: DataSource): Promise<number> {
  return database.transaction(async (manager) => {
    // Taken in a statement of its own: the next one's snapshot then sees all that earlier sequencers committed.
    await manager.query('SELECT pg_advisory_xact_lock($1)', [SEQUENCER_LOCK]);
    return countChanged(
      manager,
      `UPDATE events SET seq = numbered.seq
       FROM (
         SELECT id, (SELECT coalesce(max(seq), 0) FROM events) + row_number() OVER (ORDER BY id) AS seq
         FROM events WHERE seq IS NULL ORDER BY id LIMIT $1
       ) AS numbered
       WHERE events.id = numbered.id`,
      [SEQUENCE_BATCH],
    );
  });
}

/** All events of one upload or file, oldest first. */
export async function listEvents(database: DataSource, subjectId: string): Promise<Event[]> {
  return database.getRepository(Event).find({ where: { subjectId }, order: { id: 'ASC' } });
}
