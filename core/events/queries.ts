import type { DataSource } from 'typeorm';
import { Event } from '../database/entities/event.js';
import { queryEntities, queryRows } from '../database/rows.js';

/* Reading the event log: the timeline of one upload or file, and the audit log, which says who did what. */

/** The events of one upload or file, oldest first. Refusals are for the audit log only. */
export async function listEvents(database: DataSource, subjectId: string): Promise<Event[]> {
  return queryEntities(
    database,
    Event,
    `SELECT * FROM all_events WHERE subject_id = $1 AND result = 'ok' ORDER BY seq NULLS LAST, id`,
    [subjectId],
  );
}

/** Maps ids of files to ids of the requests that brought their last bytes. A file that the worker has made is missing. */
export async function mapFilesToRequests(
  database: DataSource,
  fileIds: string[],
): Promise<Map<string, string>> {
  const found = await queryRows<{ id: string; request: string }>(
    database,
    `SELECT subject_id AS id, actor ->> 'requestId' AS request FROM all_events
     WHERE subject_id = ANY ($1) AND type = 'file.created' AND actor ? 'requestId'`,
    [fileIds],
  );
  return new Map(found.map(({ id, request }) => [id, request]));
}

export interface AuditFilter {
  /** Such as `auth.login`, or `auth.*` for all types that begin with `auth.`. */
  type?: string | undefined;
  /** The user who acted. */
  userId?: string | undefined;
  /** The upload, file, user, … that the event is about. */
  subjectId?: string | undefined;
  result?: 'ok' | 'refused' | undefined;
  /** From this time on, … */
  from?: Date | undefined;
  /** … and before this one. */
  to?: Date | undefined;
  /** Include events that the system caused by itself. */
  system: boolean;
}

/** Events of an export that are read at a time. */
const BATCH = 500;

/** Longer than any transaction lasts. */
const SLACK = `interval '1 hour'`;

/** Newest first. @param before only events with smaller numbers; undefined: from the end of the log */
export async function listAudit(
  database: DataSource,
  filter: AuditFilter,
  before: number | undefined,
  limit: number,
): Promise<Event[]> {
  const range = await findRange(database, filter);
  if (before !== undefined) range.below = Math.min(before, range.below);
  return select(database, filter, range, 'DESC', limit);
}

/** Oldest first, in batches that are read on demand. @param last the last number to read */
export async function* readAudit(
  database: DataSource,
  filter: AuditFilter,
  last: number,
): AsyncGenerator<Event[]> {
  const range = await findRange(database, filter);
  range.below = Math.min(last + 1, range.below);
  for (;;) {
    const events = await select(database, filter, range, 'ASC', BATCH);
    if (events.length > 0) yield events;
    if (events.length < BATCH) return;
    range.above = events.at(-1)?.seq ?? range.below;
  }
}

/** A range of numbers; both limits are excluded. */
interface Range {
  above: number;
  below: number;
}

function select(
  database: DataSource,
  { type, userId, subjectId, result, from, to, system }: AuditFilter,
  { above, below }: Range,
  order: 'ASC' | 'DESC',
  limit: number,
): Promise<Event[]> {
  const parameters: unknown[] = [above, below, limit];
  const conditions = ['seq > $1', 'seq < $2'];
  const add = (condition: string, value: unknown) => {
    if (value === undefined) return;
    parameters.push(value);
    conditions.push(condition.replace('?', `$${parameters.length}`));
  };
  if (!system) conditions.push('actor IS NOT NULL');
  if (type?.endsWith('*')) add('type LIKE ?', `${type.slice(0, -1).replaceAll('_', '\\_')}%`);
  else add('type = ?', type);
  add(`actor ->> 'userId' = ?`, userId);
  add('subject_id = ?', subjectId);
  add('result = ?', result);
  add('created_at >= ?', from);
  add('created_at < ?', to);
  return queryEntities(
    database,
    Event,
    `SELECT * FROM events WHERE ${conditions.join(' AND ')} ORDER BY seq ${order} LIMIT $3`,
    parameters,
  );
}

/**
 * The range of numbers that contains all events of a time span. Numbers follow the order of commits; times are those at
 * which transactions began. So the two orders differ by at most the duration of a transaction. Without the range, a
 * query for old events would scan all newer ones.
 */
async function findRange(database: DataSource, { from, to }: AuditFilter): Promise<Range> {
  const [range] = await queryRows<{ above: number | null; below: number | null }>(
    database,
    `SELECT
       (SELECT seq::float8 FROM events WHERE seq IS NOT NULL AND created_at < $1::timestamptz - ${SLACK}
        ORDER BY created_at DESC LIMIT 1) AS above,
       (SELECT seq::float8 FROM events WHERE seq IS NOT NULL AND created_at >= $2::timestamptz + ${SLACK}
        ORDER BY created_at LIMIT 1) AS below`,
    [from ?? null, to ?? null],
  );
  return { above: range?.above ?? 0, below: range?.below ?? Number.MAX_SAFE_INTEGER };
}
