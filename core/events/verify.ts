import type { DataSource } from 'typeorm';
import { queryRows } from '../database/rows.js';
import {
  type EventHead,
  FIRST_HASH,
  HASHED_COLUMNS,
  type HashedRow,
  hashEvent,
  sequenceEvents,
} from './sequence.js';

/*
 * Checks that the event log was not changed after it was written.
 *
 * The hash of event n is SHA-256 over the hash of event n - 1 and over the columns of its row (HashedRow); the hash
 * before event 1 is SHA-256('landfall'). `event_head` holds the last number and its hash. So the check needs only these
 * tables: it walks through the log by number, computes each hash from the previous one, and compares. It reports the
 * first of these that it finds:
 *
 * - a number that is missing: a row was removed, or taken out of the order;
 * - a row that does not fit: it was changed or exchanged, or its hash was;
 * - numbers up to that of the head that are missing at the end: the log was cut off there;
 * - rows after the head, or another hash in the head than in the last row: the head was changed, or rows were inserted.
 *
 * Servers go on appending meanwhile. The head and the highest number are therefore read in one statement, and the walk
 * stops at that number: rows up to it were committed together with a head and never change again. The check holds one
 * batch of rows in memory and no transaction open.
 *
 * The check has limits. The hashes contain no secret: someone with full access to the database can change a row, compute
 * all later hashes anew, and write a new head; or cut off the log and set the head back. Only a head that was noted
 * elsewhere reveals that: every `seq:hash` that ever was the head must stay in the chain (`expected`). The worker logs a
 * head every hour. And an event is not protected before it has a number. It gets one within a tenth of a second of its
 * commit, or, if its process dies, within 30 seconds from the worker's reconciler.
 */

/** Rows at a time. */
const BATCH = 1000;

/** Below any number. */
const LOWEST = '-9223372036854775808';

/** The log was changed. The message says what is wrong and where, in one line. */
export class LogDamage extends Error {
  override name = 'LogDamage';
}

interface ChainedRow extends HashedRow {
  seq: string;
  hash: Buffer | null;
}

/**
 * Gives committed events their numbers, then checks all of the log.
 * @param expected a head that was noted earlier and must still be in the chain
 * @returns the head; its number is also the number of events that were checked
 * @throws {LogDamage} naming the first damage
 */
export async function verifyEvents(database: DataSource, expected?: EventHead): Promise<EventHead> {
  // Numbering fails too when the head was tampered with. The walk then gives the better message.
  const failure = await sequenceEvents(database).then(
    () => undefined,
    (error: unknown) => error,
  );
  const head = await verifyChain(database, expected);
  if (failure) throw failure;
  return head;
}

async function verifyChain(database: DataSource, expected: EventHead | undefined): Promise<EventHead> {
  const [present] = await queryRows<{ seq: string | null; hash: Buffer | null; highest: string | null }>(
    database,
    `SELECT (SELECT seq FROM event_head) AS seq, (SELECT hash FROM event_head) AS hash,
       (SELECT max(seq) FROM events) AS highest`,
  );
  if (!present?.seq || !present.hash)
    throw new LogDamage('event_head is empty: the end of the log is not known');
  const head = { seq: Number(present.seq), hash: present.hash };
  const last = await walk(database, present.highest ?? '0', expected);
  if (last.seq < head.seq) {
    throw new LogDamage(
      `${name(last.seq + 1, head.seq)} at the end: the log ends with ${last.seq}, event_head says ${head.seq}`,
    );
  }
  if (last.seq > head.seq) {
    throw new LogDamage(`event_head says that the log ends with ${head.seq}, but it goes on to ${last.seq}`);
  }
  if (!last.hash.equals(head.hash)) {
    throw new LogDamage(`event_head has another hash than event ${last.seq}`);
  }
  if (expected && expected.seq > head.seq) {
    throw new LogDamage(`the log ends with ${head.seq}, but there was an event ${expected.seq} once`);
  }
  return head;
}

/** Computes the chain up to the number `highest`. @returns its end */
async function walk(
  database: DataSource,
  highest: string,
  expected: EventHead | undefined,
): Promise<EventHead> {
  let end: EventHead = { seq: 0, hash: FIRST_HASH };
  compare(end, expected);
  // By number and id: the unique index on the number could have been dropped, so a number may occur twice.
  let after: Pick<ChainedRow, 'seq' | 'id'> = { seq: LOWEST, id: LOWEST };
  for (;;) {
    const rows = await queryRows<ChainedRow>(
      database,
      `SELECT seq, hash, ${HASHED_COLUMNS} FROM events
       WHERE (seq, events.id) > ($1::bigint, $2::bigint) AND seq <= $3::bigint
       ORDER BY seq, events.id LIMIT $4`,
      [after.seq, after.id, highest, BATCH],
    );
    for (const row of rows) {
      end = follow(end, row);
      compare(end, expected);
      after = row;
    }
    if (rows.length < BATCH) return end;
  }
}

/** Follows the chain by one row. @throws {LogDamage} when the row does not belong there */
function follow(before: EventHead, row: ChainedRow): EventHead {
  const seq = before.seq + 1;
  const found = Number(row.seq);
  if (found > seq) throw new LogDamage(`${name(seq, found - 1)}: after ${before.seq} comes ${found}`);
  if (found < seq)
    throw new LogDamage(`there is a row with the number ${row.seq} that does not belong into the log`);
  const hash = hashEvent(before.hash, seq, row);
  if (!row.hash?.equals(hash)) {
    throw new LogDamage(`event ${seq} does not fit: its content or its hash was changed, or it was put in`);
  }
  return { seq, hash };
}

function compare(end: EventHead, expected: EventHead | undefined): void {
  if (end.seq !== expected?.seq || end.hash.equals(expected.hash)) return;
  throw new LogDamage(
    `event ${end.seq} has another hash than the one that was noted: the log was written anew, from there or before`,
  );
}

function name(first: number, last: number): string {
  return first === last ? `event ${first} is missing` : `events ${first} to ${last} are missing`;
}
