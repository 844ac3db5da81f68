import type { DataSource, EntityManager } from 'typeorm';
import { type Database, execute, queryRows } from '../database/rows.js';
import { moveCursor, readCursor } from '../events/cursors.js';
import { SUBSCRIBABLE_TYPES, TEST_EVENT } from './event-types.js';

/*
 * Makes a row in `deliveries` for each event and each subscription that wants it. One transaction reads a part of the
 * event log, inserts the rows and moves the cursor, so each event is fanned out exactly once, whoever dies in between.
 *
 * A new subscription gets the events that are numbered after it was committed. Events of which a request says that they
 * happened after the answer to the creation are among them: they were numbered later, and the INSERT below begins after
 * that.
 */

/** The name of the cursor; the migration creates it. */
const CURSOR = 'deliveries';

/** Events that one transaction fans out. */
const BATCH = 1000;

/** Events of a replay that one transaction looks at, and deliveries that it makes at most. */
const REPLAY_RANGE = 50_000;
const REPLAY_BATCH = 500;

/** A replay waits while its subscription has this many unfinished deliveries. */
const REPLAY_AHEAD = 5_000;

/** SQL condition on a subscription `s` that gets events: it is enabled, and its owner still has the right to them. */
export const IS_LIVE = `s.disabled_at IS NULL AND s.deleted_at IS NULL AND (s.owner_id IS NULL OR EXISTS (
  SELECT FROM users u
  WHERE u.id = s.owner_id AND u.disabled_at IS NULL AND (s.scope = 'own' OR u.role = 'admin')))`;

/** SQL condition: the subscription `s` has asked for the type of the event `e`. A test is for one subscription. */
const WANTS = `CASE e.type WHEN '${TEST_EVENT}' THEN e.subject_id = s.id
  ELSE s.events && ARRAY[e.type, split_part(e.type, '.', 1) || '.*'] END`;

/**
 * The id of a delivery follows from its subscription and its event, so that a replay of a forgotten delivery bears the
 * same id: a UUID of version 8 (RFC 9562).
 */
const DELIVERY_ID = `overlay(overlay(md5(s.id::text || ':' || e.seq) PLACING '8' FROM 13) PLACING 'a' FROM 17)::uuid`;

const COLUMNS = 'id, subscription_id, seq, type, subject_id';
const VALUES = `${DELIVERY_ID}, s.id, e.seq, e.type, coalesce(e.subject_id, s.id)`;

/** @returns how many deliveries were made */
export async function fanOut(database: DataSource): Promise<number> {
  let made = 0;
  for (;;) {
    if (!(await hasWork(database))) return made;
    const batch = await database.transaction(fanOutBatch);
    made += batch.made;
    if (batch.isLast) return made;
  }
}

/** The end of the log, and the first event that a subscription can want; null: there is no subscription. */
interface Range {
  head: number;
  first: number | null;
}

async function readRange(database: Database): Promise<Range> {
  const [range] = await queryRows<Range>(
    database,
    `SELECT seq::float8 AS head,
       (SELECT min(after_seq)::float8 FROM subscriptions WHERE disabled_at IS NULL AND deleted_at IS NULL) AS first
     FROM event_head`,
  );
  return range ?? { head: 0, first: null };
}

/** Asks without a lock: most servers have no webhooks, and their logs grow all the time. */
async function hasWork(database: DataSource): Promise<boolean> {
  const { head, first } = await readRange(database);
  return first !== null && head > Math.max(first, await readCursor(database, CURSOR));
}

async function fanOutBatch(manager: EntityManager): Promise<{ made: number; isLast: boolean }> {
  const cursor = await readCursor(manager, CURSOR, 'FOR UPDATE');
  const { head, first } = await readRange(manager);
  // Nobody wants what was before the first subscription.
  const from = Math.max(cursor, first ?? cursor);
  const to = Math.min(head, from + BATCH);
  if (first === null || to <= from) return { made: 0, isLast: true };
  const made = await queryRows(
    manager,
    `WITH e AS MATERIALIZED (
       SELECT seq, type, subject_id, owner_id FROM events
       WHERE seq > $1 AND seq <= $2 AND result = 'ok' AND type = ANY ($3)
     )
     INSERT INTO deliveries (${COLUMNS})
       SELECT ${VALUES} FROM e JOIN subscriptions s ON s.scope = 'own' AND s.owner_id = e.owner_id
       WHERE e.seq > s.after_seq AND ${WANTS} AND ${IS_LIVE}
       UNION ALL
       SELECT ${VALUES} FROM e JOIN subscriptions s ON s.scope = 'all'
       WHERE e.seq > s.after_seq AND ${WANTS} AND ${IS_LIVE}
     ON CONFLICT DO NOTHING RETURNING 1`,
    [from, to, [...SUBSCRIBABLE_TYPES, TEST_EVENT]],
  );
  await moveCursor(manager, CURSOR, cursor, to);
  return { made: made.length, isLast: to === head };
}

interface Replay {
  id: string;
  after: number;
  to: number;
  from: Date;
}

/**
 * Goes on with the replays that were asked for. A finished delivery becomes pending again and keeps its id.
 * @returns how many deliveries were made, or made anew
 */
export async function fanOutReplays(database: DataSource): Promise<number> {
  const asked = await queryRows<{ id: string }>(
    database,
    `SELECT s.id FROM subscriptions s WHERE s.replay_to IS NOT NULL AND ${IS_LIVE}`,
  );
  let made = 0;
  for (const { id } of asked) {
    let batch: number | undefined;
    do {
      batch = await database.transaction((manager) => replayBatch(manager, id));
      made += batch ?? 0;
    } while (batch !== undefined);
  }
  return made;
}

/** @returns undefined: there is nothing to do for this subscription now */
async function replayBatch(manager: EntityManager, id: string): Promise<number | undefined> {
  const [replay] = await queryRows<Replay>(
    manager,
    `SELECT id, replay_after::float8 AS after, replay_to::float8 AS to, replay_from AS from
     FROM subscriptions s WHERE id = $1 AND replay_to IS NOT NULL AND ${IS_LIVE}
       AND (SELECT count(*) FROM (
         SELECT FROM deliveries WHERE subscription_id = $1 AND state = 'pending' LIMIT $2) AS waiting) < $2
     FOR UPDATE SKIP LOCKED`,
    [id, REPLAY_AHEAD],
  );
  if (!replay) return undefined;
  const upper = Math.min(replay.to, replay.after + REPLAY_RANGE);
  const found = await queryRows<{ seq: number }>(
    manager,
    `WITH e AS MATERIALIZED (
       SELECT e.seq, e.type, e.subject_id FROM events e JOIN subscriptions s ON s.id = $1
       WHERE e.seq > $2 AND e.seq <= $3 AND e.result = 'ok' AND e.type = ANY ($4) AND e.created_at >= $5
         AND (s.scope = 'all' OR e.owner_id = s.owner_id) AND ${WANTS}
       ORDER BY e.seq LIMIT ${REPLAY_BATCH}
     ), made AS (
       INSERT INTO deliveries (${COLUMNS}) SELECT ${VALUES} FROM e JOIN subscriptions s ON s.id = $1
       ON CONFLICT (id) DO UPDATE SET ${MADE_ANEW} WHERE deliveries.state <> 'pending'
     )
     SELECT seq::float8 AS seq FROM e ORDER BY seq DESC`,
    [id, replay.after, upper, SUBSCRIBABLE_TYPES, replay.from],
  );
  const reached = found.length === REPLAY_BATCH ? (found[0]?.seq ?? upper) : upper;
  const isOver = reached >= replay.to;
  await execute(
    manager,
    `UPDATE subscriptions SET replay_after = $2, replay_to = $3, replay_from = $4 WHERE id = $1`,
    [id, isOver ? null : reached, isOver ? null : replay.to, isOver ? null : replay.from],
  );
  return found.length;
}

/** What an UPDATE sets in a finished delivery that is to be sent again. */
export const MADE_ANEW = `state = 'pending', failures = 0, next_attempt_at = now(), first_attempt_at = NULL,
  finished_at = NULL`;
