import type { DataSource } from 'typeorm';
import { forEachOf } from './concurrency.js';
import { queryRows } from './database/rows.js';
import { isStoreAway } from './storage/storage.js';

/*
 * How the reconciler works through rows that each need the store.
 *
 * A store that refuses one row (its policy denies a deletion, its key service denies a key) may accept the next one. So
 * the refused row is put off, longer each time, and does not block other rows. A store that does not answer says
 * nothing about the row: the pass ends, that row is not put off, and it is tried again as soon as the store is back.
 */

/** Rows that are read at a time, and concurrent calls to the store. */
const BATCH = 200;
const CONCURRENCY = 8;

/** How many rows a store may leave without an answer before the pass ends. */
const MAX_UNANSWERED = 3;

/** Seconds until a row is tried again: after its first failure, and at most. The pause doubles with each failure. */
const FIRST_PAUSE = 30;
const LONGEST_PAUSE = 3600;

/** Tables with the columns `failures` and `retry_at`. */
type Table = 'uploads' | 'blobs';

/** Some rows of a pass failed. */
class PassIncomplete extends Error {
  override name = 'PassIncomplete';
  constructor(done: number, failed: number, cause: unknown) {
    super(`${done} done, ${failed} failed: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
}

/** SQL condition on a row of these tables: it may be tried now. */
export const IS_DUE = '(retry_at IS NULL OR retry_at <= now())';

/** Records that a row has failed, and puts it off. @returns how often it has failed */
export async function putOff(database: DataSource, table: Table, id: string): Promise<number> {
  const [row] = await queryRows<{ failures: number }>(
    database,
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
 * @param next returns at most `limit` further rows that are due, and never a row that failed or was done in this pass
 * @param act does what the row needs
 * @returns how many rows were done
 * @throws {PassIncomplete} when rows failed, after all others were tried; its cause is the first error
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
