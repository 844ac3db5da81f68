import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { DataSource, EntityManager } from 'typeorm';
import { execute, queryRows } from '../database/rows.js';
import type { Logger } from '../log.js';
import { onAppended } from './append.js';

/*
 * Numbers events: moves committed events from the inbox into `events`, one sequencer at a time, without gaps.
 *
 * With its number a row gets a hash over itself and the previous hash, so that a later change or removal of a row is
 * detected. `event_head` holds the last number and hash, so that cutting off the end of the log is detected too.
 * verify.ts checks this.
 *
 * Any process may number. The process that holds the lock of the head numbers, and the others skip. A process that
 * appends events numbers them soon afterwards. It keeps looking for a while, because a transaction may commit long after
 * it has appended. If a process dies before it has numbered its events, the reconciler does it.
 */

/** Channel of PostgreSQL for notifications that the log has grown; without a payload. */
export const GROWN = 'events';

const BATCH = 1000;

/** Milliseconds between an append and the first look, and between two looks. */
const EVERY_MS = 50;

/** How long after the last append a process goes on looking, in milliseconds. */
const LINGER_MS = 1_000;

/** Pause after a failure, in milliseconds. */
const AFTER_FAILURE_MS = 1_000;

/** Rows of one partition of `events`; the migration has the same number. */
const PARTITION_ROWS = 10_000_000;

/** The columns that a hash covers, as PostgreSQL writes them. */
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

/** The hash that precedes the first event. */
export const FIRST_HASH = createHash('sha256').update('landfall').digest();

/** SHA-256 over the previous hash and the row. */
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

/** Reads the head. @throws when there is none, which only tampering can cause */
export async function readHead(database: DataSource): Promise<EventHead> {
  const [head] = await queryRows<EventHead>(database, 'SELECT seq::float8 AS seq, hash FROM event_head');
  if (!head) throw new Error('event_head is empty');
  return head;
}

/** `<seq>:<hash in hexadecimal>`, for people to note. */
export function formatHead({ seq, hash }: EventHead): string {
  return `${seq}:${hash.toString('hex')}`;
}

/**
 * Numbers all events that are committed. Waits for a sequencer that is already running.
 * @returns how many events it numbered
 */
export async function sequenceEvents(database: DataSource): Promise<number> {
  return sequenceAll(database, 'FOR UPDATE');
}

const listeners = new WeakMap<DataSource, (events: HashedRow[]) => void>();

/** Calls `listener` with the events that this process has numbered, after the commit. One listener a database. */
export function onNumbered(database: DataSource, listener: (events: HashedRow[]) => void): void {
  listeners.set(database, listener);
}

async function sequenceAll(database: DataSource, lock: string): Promise<number> {
  let total = 0;
  for (;;) {
    const numbered = await database.transaction((manager) => sequenceBatch(manager, lock));
    listeners.get(database)?.(numbered);
    total += numbered.length;
    if (numbered.length < BATCH) return total;
  }
}

/** @param lock how to lock the head */
async function sequenceBatch(manager: EntityManager, lock: string): Promise<HashedRow[]> {
  // A separate statement, so that the next one sees everything that earlier sequencers have committed.
  const [head] = await queryRows<EventHead>(
    manager,
    `SELECT seq::float8 AS seq, hash FROM event_head ${lock}`,
  );
  if (!head) return headIsMissing(manager);
  const rows = await queryRows<HashedRow>(
    manager,
    `SELECT ${HASHED_COLUMNS} FROM event_inbox ORDER BY event_inbox.id LIMIT $1`,
    [BATCH],
  );
  if (rows.length === 0) return [];
  let { seq, hash } = head;
  const numbered = rows.map((row) => {
    seq++;
    hash = hashEvent(hash, seq, row);
    return { id: row.id, seq, hash };
  });
  // Create the next partition well before the present one is full.
  if (seq % PARTITION_ROWS < BATCH) {
    await execute(manager, 'SELECT ensure_event_partition($1)', [seq + PARTITION_ROWS]);
  }
  await execute(
    manager,
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
  await execute(manager, `SELECT pg_notify('${GROWN}', '')`);
  return rows;
}

/** Without a head row: either another sequencer has locked it, or the table is empty. */
async function headIsMissing(manager: EntityManager): Promise<[]> {
  const heads = await queryRows(manager, 'SELECT FROM event_head');
  if (heads.length === 0) throw new Error('event_head is empty');
  return [];
}

export interface Sequencer {
  /** Stops numbering and waits for a batch under way. */
  stop(): Promise<void>;
}

/** Numbers the events that this process appends, within about 100 ms of their commit. */
export function startSequencer(database: DataSource, log: Logger): Sequencer {
  const stopping = new AbortController();
  let lastAppend = 0;
  let running: Promise<void> | undefined;

  async function look(): Promise<void> {
    try {
      const waiting = await queryRows(database, 'SELECT FROM event_inbox LIMIT 1');
      // If another sequencer holds the lock, it may have read the inbox before our commit. So this process looks again.
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
