import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from '../database/entities/event.js';
import { execute } from '../database/rows.js';
import type { NewEvent } from './types.js';

/*
 * The append-only event log: the only source of a file's timeline, of the audit log, and of everything that is sent to
 * subscribers.
 *
 * A transaction inserts its events into a small inbox. The ids in the inbox give readers no usable order: an identity
 * value is assigned at the insert, so a row with a low id can become visible after one with a higher id, and a reader
 * that remembers the last id would skip it. The sequencer (sequence.ts) moves committed events into `events`, where each
 * gets its number (`seq`). Every reader goes by that number.
 */

/**
 * Begins an INSERT of events inside the statement that makes the change; a SELECT of type, subject, owner, data and
 * actor follows. For places where a separate statement would cost too much. Call noteAppended() afterwards.
 */
export const APPEND_EVENT_OF = 'INSERT INTO event_inbox (type, subject_id, owner_id, data, actor)';

/** Appends events to the log. Part of the caller's transaction. */
export async function appendEvents(manager: EntityManager, events: NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await execute(
    manager,
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

/** Notes that events are in the inbox, or will be when the current transaction commits. */
export function noteAppended(database: DataSource): void {
  sequencers.get(database)?.();
}

/** Calls `listener` each time this process has appended to the log of this database. One listener a database. */
export function onAppended(database: DataSource, listener: () => void): void {
  sequencers.set(database, listener);
}
