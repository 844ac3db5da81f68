import type { DataSource } from 'typeorm';
import {
  type EventHead,
  FIRST_HASH,
  HASHED_COLUMNS,
  type HashedRow,
  hashEvent,
  sequenceEvents,
} from './sequence.js';

/*
 * Whether the event log is still what was written.
 *
 * The hash of the event with number n is SHA-256 over the hash of number n - 1 and over all that its row holds; before
 * number 1 stands SHA-256('landfall'). `event_head` holds the last number and its hash. So the check needs nothing but
 * the table: it walks through it by number, reckons each hash anew from the one that it has just reckoned, and compares.
 * What it finds first, it reports:
 *
 * - a number that is missing: a row was removed, or taken out of the order;
 * - a row that does not fit: it was changed or exchanged, or its hash was;
 * - numbers up to that of the head that are missing at the end: the log was cut off there;
 * - rows behind the head, or another hash in the head than in the last row: the head was changed, or rows were put in.
 *
 * Servers go on appending meanwhile. Head and highest number are therefore read in one statement, and the walk stops at
 * that number: rows up to there were committed together with a head, and nobody touches them any more. It holds one batch
 * of rows in memory and no transaction open.
 *
 * What it cannot prove: the hashes have no secret in them. Whoever may do everything in the database can change a row,
 * reckon all hashes from there on anew, and write a new head; or cut the log off and set the head back. Only a head that
 * was noted elsewhere shows that: every `seq:hash` that ever was the head has to be in the chain for ever (`expected`).
 * The worker's log gets one each hour. And what has no number yet is not protected yet: events get theirs within a tenth
 * of a second of their commit, or, when their process dies, within 30 seconds by the worker's reconciler.
 */

/** Rows at a time. */
const BATCH = 1000;

/** Below any number. */
const LOWEST = '-9223372036854775808';

/** The log is not what was written. The message says what is wrong and where, in one line. */
export class LogDamage extends Error {
  override name = 'LogDamage';
}

interface ChainedRow extends HashedRow {
  seq: string;
  hash: Buffer | null;
}

/**
 * Gives committed events their numbers, then checks all of the log.
 * @param expected a head of earlier, which must still be in the chain
 * @returns the head, whose number is also that of the events that were checked
 * @throws {LogDamage} naming the first thing that is wrong
 */
export async function verifyEvents(database: DataSource, expected?: EventHead): Promise<EventHead> {
  // That fails, too, when the head was tampered with. Then the walk says it better.
  const failure = await sequenceEvents(database).then(
    () => undefined,
    (error: unknown) => error,
  );
  const head = await verifyChain(database, expected);
  if (failure) throw failure;
  return head;
}

async function verifyChain(database: DataSource, expected: EventHead | undefined): Promise<EventHead> {
  const [present]: { seq: string | null; hash: Buffer | null; highest: string | null }[] =
    await database.query(
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

/** Reckons the chain up to the number `highest`. @returns its end */
async function walk(
  database: DataSource,
  highest: string,
  expected: EventHead | undefined,
): Promise<EventHead> {
  let end: EventHead = { seq: 0, hash: FIRST_HASH };
  compare(end, expected);
  // By number and id: the index that forbids a number to stand there twice could have been dropped.
  let after: Pick<ChainedRow, 'seq' | 'id'> = { seq: LOWEST, id: LOWEST };
  for (;;) {
    const rows: ChainedRow[] = await database.query(
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

/** One link further. @throws {LogDamage} when this row is not the one that belongs there */
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
