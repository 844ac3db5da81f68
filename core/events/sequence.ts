import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { DataSource, EntityManager } from 'typeorm';
import type { Logger } from '../log.js';
import { onAppended } from './append.js';

/*
 * Numbers events: moves committed ones from the inbox into `events`, one sequencer at a time, without gaps.
 *
 * With its number a row gets a hash over itself and the hash before it, so that a row that was changed or removed later
 * shows. `event_head` holds the last number and hash; so the end of the log cannot be cut off unseen either. verify.ts
 * checks all that.
 *
 * Any process may number: whichever has the lock of the head does, the others leave it the work. A process that appends
 * numbers soon after, and goes on looking for a while, since a transaction may commit long after it has appended. What a
 * process leaves behind that dies is found by the reconciler.
 */

/** Channel of PostgreSQL on which the log says that it has grown; without a payload. */
export const GROWN = 'events';

const BATCH = 1000;

/** Milliseconds between an append and the first look, and between two looks. */
const EVERY_MS = 50;

/** How long after the last append a process goes on looking, in milliseconds. */
const LINGER_MS = 1_000;

/** Pause after a failure, in milliseconds. */
const AFTER_FAILURE_MS = 1_000;

/** Rows of one partition of `events`; the migration knows that number too. */
const PARTITION_ROWS = 10_000_000;

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

/**
 * Numbers all events that are committed. Waits for another sequencer that is at work.
 * @returns how many there were
 */
export async function sequenceEvents(database: DataSource): Promise<number> {
  return sequenceAll(database, 'FOR UPDATE');
}

async function sequenceAll(database: DataSource, lock: string): Promise<number> {
  let total = 0;
  for (;;) {
    const numbered = await database.transaction((manager) => sequenceBatch(manager, lock));
    total += numbered;
    if (numbered < BATCH) return total;
  }
}

/** @param lock how to lock the head */
async function sequenceBatch(manager: EntityManager, lock: string): Promise<number> {
  // A statement of its own: the next one then sees all that earlier sequencers have committed.
  const [head]: { seq: string; hash: Buffer }[] = await manager.query(
    `SELECT seq, hash FROM event_head ${lock}`,
  );
  if (!head) return headIsMissing(manager);
  const rows: HashedRow[] = await manager.query(
    `SELECT ${HASHED_COLUMNS} FROM event_inbox ORDER BY event_inbox.id LIMIT $1`,
    [BATCH],
  );
  if (rows.length === 0) return 0;
  let seq = Number(head.seq);
  let { hash } = head;
  const numbered = rows.map((row) => {
    seq++;
    hash = hashEvent(hash, seq, row);
    return { id: row.id, seq, hash };
  });
  // Well before the numbers of the present partition are used up.
  if (seq % PARTITION_ROWS < BATCH) {
    await manager.query('SELECT ensure_event_partition($1)', [seq + PARTITION_ROWS]);
  }
  await manager.query(
    `WITH moved AS (
       DELETE FROM event_inbox USING unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS numbered (id, seq, hash)
       WHERE event_inbox.id = numbered.id
       RETURNING numbered.seq, numbered.hash, event_inbox.*
     ), told AS (
       INSERT INTO events (seq, hash, id, type, subject_id, owner_id, data, actor, result, created_at)
       SELECT seq, hash, id, type, subject_id, owner_id, data, actor, result, created_at FROM moved
     )
     UPDATE event_head SET seq = $4, hash = $5`,
    [
      numbered.map((row) => row.id),
      numbered.map((row) => row.seq),
      numbered.map((row) => row.hash),
      seq,
      hash,
    ],
  );
  await manager.query(`SELECT pg_notify('${GROWN}', '')`);
  return rows.length;
}

/** Either another sequencer has it, or there is none. */
async function headIsMissing(manager: EntityManager): Promise<number> {
  const heads: unknown[] = await manager.query('SELECT FROM event_head');
  if (heads.length === 0) throw new Error('event_head is empty');
  return 0;
}

export interface Sequencer {
  /** Numbers no more; waits for what is under way. */
  stop(): Promise<void>;
}

/** Numbers what this process appends, within some 100 ms of its commit. */
export function startSequencer(database: DataSource, log: Logger): Sequencer {
  const stopping = new AbortController();
  let lastAppend = 0;
  let running: Promise<void> | undefined;

  async function look(): Promise<void> {
    try {
      const waiting: unknown[] = await database.query('SELECT FROM event_inbox LIMIT 1');
      // Another sequencer that is at work may have looked before our commit. So this process looks again.
      if (waiting.length > 0) await sequenceAll(database, 'FOR UPDATE SKIP LOCKED');
      await pause(EVERY_MS, undefined, { signal: stopping.signal, ref: false });
    } catch (error) {
      if (stopping.signal.aborted) return;
      log.warn({ err: error }, 'events not numbered');
      await pause(AFTER_FAILURE_MS, undefined, { signal: stopping.signal, ref: false }).catch(() => {});
    }
  }

  async function run(): Promise<void> {
    await pause(EVERY_MS, undefined, { signal: stopping.signal, ref: false }).catch(() => {});
    while (!stopping.signal.aborted && Date.now() - lastAppend < LINGER_MS) await look();
  }

  onAppended(database, () => {
    lastAppend = Date.now();
    if (stopping.signal.aborted) return;
    running ??= run().finally(() => {
      running = undefined;
    });
  });

  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
