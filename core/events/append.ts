import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from '../database/entities/event.js';
import type { NewEvent } from './types.js';

/*
 * The append-only event log: the one source of a file's timeline, of the audit log, and of everything that will be told
 * to others.
 *
 * A transaction inserts its events into a small inbox. There they have no order that a reader could go by: an identity
 * column is handed out at the insert, so a row with a low number can become visible after one with a higher number, and a
 * reader that remembers the last number would skip it. The sequencer (sequence.ts) moves committed events into `events`,
 * where each gets its number. Every reader goes by that number.
 */

/**
 * Begins an INSERT of one event inside a statement that changes what it tells of; a SELECT of type, subject, owner,
 * data and actor follows. For where each further statement would be felt. Call noteAppended() after it.
 */
export const APPEND_EVENT_OF = 'INSERT INTO event_inbox (type, subject_id, owner_id, data, actor)';

/** Appends to the log; part of the caller's transaction. */
export async function appendEvents(manager: EntityManager, events: NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await manager.query(
    `INSERT INTO event_inbox (type, subject_id, owner_id, data, actor, result)
     SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::jsonb[], $5::jsonb[], $6::text[])`,
    [
      events.map((event) => event.type),
      events.map((event) => event.subjectId),
      events.map((event) => event.ownerId),
      events.map((event) => JSON.stringify(event.data ?? {})),
      events.map((event) => actorJson(event.actor)),
      events.map((event) => event.result ?? 'ok'),
    ],
  );
  noteAppended(manager.connection);
}

/** For a parameter of type jsonb. */
export function actorJson(actor: Actor | undefined): string | null {
  return actor ? JSON.stringify(actor) : null;
}

const sequencers = new WeakMap<DataSource, () => void>();

/** Says that events may have come into the inbox, or will with the commit of a transaction. */
export function noteAppended(database: DataSource): void {
  sequencers.get(database)?.();
}

/** Calls `listener` each time this process has appended to the log of this database. One listener a database. */
export function onAppended(database: DataSource, listener: () => void): void {
  sequencers.set(database, listener);
}
