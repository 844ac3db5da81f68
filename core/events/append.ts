import { createHash } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { type Actor, Event } from '../database/entities/event.js';

/*
 * The append-only event log: the one source of a file's timeline, of the audit log, and of everything that will be told
 * to others.
 *
 * Events are appended inside the transaction that makes them true, without any order among transactions: an
 * identity column is handed out at insert, so a row with a low number can become visible after one with a higher
 * number, and a reader that remembers "the last number I saw" would skip it. The sequencer therefore numbers
 * committed rows afterwards, one sequencer at a time, without gaps. Cursors go by `seq` only.
 *
 * With its number a row gets a hash over itself and the hash before it, so that a row that was changed or removed later
 * shows. `event_head` holds the last number and hash; so the end of the log cannot be cut off unseen either. events/verify.ts
 * checks all that.
 */

export interface NewEvent {
  type: EventType;
  /** Upload, file, user, …; null where there is none. */
  subjectId: string | null;
  /** Whose timeline it belongs to. */
  ownerId: string | null;
  /** Neither secrets nor content. */
  data?: Record<string, unknown>;
  /** Who did it; absent: the system itself. */
  actor?: Actor | undefined;
  /** Absent: it was done. */
  result?: 'ok' | 'refused';
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
  | 'file.purged'
  | 'auth.register'
  | 'auth.login'
  | 'auth.logout'
  | 'auth.token_reused'
  | 'auth.password'
  | 'session.revoked'
  | 'key.created'
  | 'key.revoked'
  | 'upload_token.created'
  | 'upload_token.revoked'
  | 'invitation.created'
  | 'invitation.revoked'
  | 'user.changed'
  | 'queue.changed'
  | 'audit.exported'
  /** A request that was turned away; `data` says what it wanted and why not. */
  | 'access'
  /** Further ones of one network, or of several, that are only counted; see server/auth/refusal-counts.ts. */
  | 'access.counted';

const SEQUENCE_BATCH = 1000;

/**
 * Begins an INSERT of one event inside a statement that changes what it tells of; a SELECT of type, subject, owner,
 * data and actor follows. For where each further statement would be felt.
 */
export const APPEND_EVENT_OF = 'INSERT INTO events (type, subject_id, owner_id, data, actor)';

/** Appends to the log; part of the caller's transaction. */
export async function appendEvents(manager: EntityManager, events: NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await manager.query(
    `INSERT INTO events (type, subject_id, owner_id, data, actor, result)
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
}

/** For a parameter of type jsonb. */
export function actorJson(actor: Actor | undefined): string | null {
  return actor ? JSON.stringify(actor) : null;
}

/** What a hash is made of, as PostgreSQL writes it. */
export interface HashedRow {
  id: string;
  type: string;
  subject_id: string | null;
  owner_id: string | null;
  data: string;
  actor: string | null;
  result: string;
  /** Microseconds since 1970. */
  created_at: string;
}

/** Selects the columns of a HashedRow. */
export const HASHED_COLUMNS = `id::text, type, subject_id::text, owner_id::text, data::text, actor::text, result,
  (extract(epoch FROM created_at) * 1000000)::bigint::text AS created_at`;

/** The hash before the first event's. */
export const FIRST_HASH = createHash('sha256').update('landfall').digest();

/** SHA-256 over the hash before and the row. */
export function hashEvent(before: Buffer, seq: number, row: HashedRow): Buffer {
  const { id, type, subject_id, owner_id, data, actor, result, created_at } = row;
  const text = JSON.stringify([seq, id, type, subject_id, owner_id, data, actor, result, created_at]);
  return createHash('sha256').update(before).update(text).digest();
}

/** Where the log ends: the last number and its hash. */
export interface EventHead {
  /** 0: there are no events. */
  seq: number;
  hash: Buffer;
}

/** The head as it is now. @throws when there is none, which only tampering can bring about */
export async function readHead(database: DataSource): Promise<EventHead> {
  const [head]: { seq: string; hash: Buffer }[] = await database.query('SELECT seq, hash FROM event_head');
  if (!head) throw new Error('event_head is empty');
  return { seq: Number(head.seq), hash: head.hash };
}

/** `<seq>:<hash in hexadecimal>`, for people to note. */
export function formatHead({ seq, hash }: EventHead): string {
  return `${seq}:${hash.toString('hex')}`;
}

/** Gives `seq` and hash to committed events that have none yet. Returns how many there were. */
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
    // One sequencer at a time. A statement of its own: the next one then sees all that earlier sequencers committed.
    const [head]: { seq: string; hash: Buffer }[] = await manager.query(
      'SELECT seq, hash FROM event_head FOR UPDATE',
    );
    if (!head) throw new Error('event_head is empty');
    const rows: HashedRow[] = await manager.query(
      `SELECT ${HASHED_COLUMNS} FROM events WHERE seq IS NULL ORDER BY events.id LIMIT $1`,
      [SEQUENCE_BATCH],
    );
    if (rows.length === 0) return 0;
    let seq = Number(head.seq);
    let { hash } = head;
    const numbered = rows.map((row) => {
      seq++;
      hash = hashEvent(hash, seq, row);
      return { id: row.id, seq, hash };
    });
    await manager.query(
      `UPDATE events SET seq = numbered.seq, hash = numbered.hash
       FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS numbered (id, seq, hash)
       WHERE events.id = numbered.id`,
      [numbered.map((row) => row.id), numbered.map((row) => row.seq), numbered.map((row) => row.hash)],
    );
    await manager.query('UPDATE event_head SET seq = $1, hash = $2', [seq, hash]);
    return rows.length;
  });
}

/** What happened to one upload or file, oldest first. Who was refused is for the audit log only. */
export async function listEvents(database: DataSource, subjectId: string): Promise<Event[]> {
  return database
    .getRepository(Event)
    .createQueryBuilder('e')
    .where(`e.subjectId = :subjectId AND e.result = 'ok'`, { subjectId })
    .orderBy('e.id')
    .getMany();
}
