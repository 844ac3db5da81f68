import type { DataSource } from 'typeorm';
import { queryRows } from '../database/rows.js';
import type { PurgeReason } from '../events/types.js';

/* Files that the system deletes for good because of their age. */

/** Files that are found at a time. */
const BATCH = 1000;

/** Which files the system may delete for good. */
export interface PurgeRule {
  /** The age of a file is counted from its creation, when its upload was complete, or from its way into the trash. */
  since: 'created_at' | 'deleted_at';
  /** The age, in hours, at which a file is overdue. */
  hours: number;
  reason: PurgeReason;
}

/** SQL condition on a row of `files`. @param hours the parameter that holds the hours of the rule */
export function overdueBy({ since }: PurgeRule, hours: string): string {
  return `${since} <= now() - ${hours} * interval '1 hour'`;
}

/**
 * Files that are overdue by a rule, oldest first. A file that the caller leaves as it is does not come again.
 * @returns ids, in batches
 */
export async function* listOverdue(database: DataSource, rule: PurgeRule): AsyncGenerator<string[]> {
  let found: { id: string; at: string }[];
  let last: { id: string; at: string } | undefined;
  do {
    found = await queryRows(
      database,
      // As text, because a Date has no microseconds.
      `SELECT id, ${rule.since}::text AS at FROM files
       WHERE ${overdueBy(rule, '$1')} ${last ? `AND (${rule.since}, id) > ($2, $3)` : ''}
       ORDER BY ${rule.since}, id LIMIT ${BATCH}`,
      last ? [rule.hours, last.at, last.id] : [rule.hours],
    );
    last = found.at(-1);
    if (last) yield found.map(({ id }) => id);
  } while (found.length === BATCH);
}
