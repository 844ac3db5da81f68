import type { DataSource } from 'typeorm';
import { forEachOf } from './concurrency.js';
import { isStoreAway } from './storage/storage.js';

/*
 * How the reconciler works through rows that each need the store.
 *
 * A store that refuses one row (its policy denies a deletion, its key service denies a key) may take the next one. So
 * that row is put off, longer each time, and stands in nobody's way. A store that does not answer says nothing about
 * the row: the pass ends, no row is put off, and all goes on at once when the store is back.
 */

/** Rows that are read at a time, and calls to the store on their way at a time. */
const BATCH = 200;
const CONCURRENCY = 8;

/** How many rows a store may leave without an answer before the pass ends. */
const MAX_UNANSWERED = 3;

/** Seconds until a row is tried again: at first, and at most. They double with each failure. */
const FIRST_PAUSE = 30;
const LONGEST_PAUSE = 3600;

/** Tables with the columns `failures` and `retry_at`. */
type Table = 'uploads' | 'blobs';

/** What could not be done in a pass. */
class PassIncomplete extends Error {
  override name = 'PassIncomplete';
  constructor(done: number, failed: number, cause: unknown) {
    super(`${done} done, ${failed} failed: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
}

/** Condition on a row of one of the tables: it may be tried now. */
export const IS_DUE = '(retry_at IS NULL OR retry_at <= now())';

/** Notes that a row has failed, and puts it off. @returns how often it has failed */
export async function putOff(database: DataSource, table: Table, id: string): Promise<number> {
  const [[row]]: [{ failures: number }[], number] = await database.query(
    `UPDATE ${table}
     SET failures = failures + 1,
         retry_at = now() + least($2 * 2 ^ least(failures, 10), $3) * interval '1 second'
     WHERE id = $1 RETURNING failures`,
    [id, FIRST_PAUSE, LONGEST_PAUSE],
  );
  return row?.failures ?? 0;
}

/**
 * Works through rows, several at a time, until there are none left or the store does not answer.
 * @param next gives at most so many further rows that are due, and none of those again that have failed or are done
 * @param act does what the row needs
 * @returns for how many rows it was done
 * @throws {PassIncomplete} after all others, with what was thrown first
 */
export async function workThrough<T extends { id: string }>(
  database: DataSource,
  table: Table,
  next: (limit: number) => Promise<T[]>,
  act: (row: T) => Promise<void>,
): Promise<number> {
  let first: { error: unknown } | undefined;
  let done = 0;
  let failed = 0;
  let unanswered = 0;

  async function tryOne(row: T): Promise<void> {
    if (unanswered >= MAX_UNANSWERED) return;
    try {
      await act(row);
      done++;
    } catch (error) {
      first ??= { error };
      failed++;
      if (isStoreAway(error)) unanswered++;
      else await putOff(database, table, row.id);
    }
  }

  for (;;) {
    const rows = await next(BATCH);
    await forEachOf(rows, CONCURRENCY, tryOne);
    if (rows.length < BATCH || unanswered >= MAX_UNANSWERED) break;
  }
  if (first) throw new PassIncomplete(done, failed, first.error);
  return done;
}
