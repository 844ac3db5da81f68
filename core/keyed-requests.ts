import type { DataSource } from 'typeorm';
import { countChanged, execute, queryRows } from './database/rows.js';

/*
 * Requests that came with an Idempotency-Key, and their answers. A row is written before a request is carried out, and its
 * answer after that. A row without an answer belongs to a request that is being handled, or whose process has died.
 */

/** Hours for which a key is remembered. */
const KEPT_HOURS = 24;

/** A request takes less time than this. An older one without an answer was interrupted. */
const HANDLED_WITHIN_SECONDS = 120;

/** Rows that are deleted in one statement. */
const PURGE_BATCH = 1000;

/** SQL condition on a row that is remembered no longer. */
const IS_OVER = `keyed_requests.created_at <= now() - interval '${KEPT_HOURS} hours'`;

export interface KeyedRequest {
  /** A hash of caller, route and key. */
  id: Buffer;
  /** A hash of the body. */
  fingerprint: Buffer;
}

/** An earlier request with the same key. */
export interface EarlierRequest {
  fingerprint: Buffer;
  /** Null: the request is being handled, or was interrupted. */
  answer: Buffer | null;
  /** Whether the request may still be under way. */
  isRecent: boolean;
}

/**
 * Claims a key for a request, before it is carried out.
 * @returns undefined if the request is the first one with this key; the caller must carry it out then
 */
export async function claimKey(
  database: DataSource,
  { id, fingerprint }: KeyedRequest,
): Promise<EarlierRequest | undefined> {
  for (;;) {
    const claimed = await countChanged(
      database,
      `INSERT INTO keyed_requests (id, fingerprint) VALUES ($1, $2)
       ON CONFLICT (id) DO UPDATE SET fingerprint = $2, created_at = now(), answer = NULL WHERE ${IS_OVER}`,
      [id, fingerprint],
    );
    if (claimed > 0) return undefined;
    const [earlier] = await queryRows<EarlierRequest>(
      database,
      `SELECT fingerprint, answer,
         created_at > now() - interval '${HANDLED_WITHIN_SECONDS} seconds' AS "isRecent"
       FROM keyed_requests WHERE id = $1`,
      [id],
    );
    // The earlier request has failed in between, and its row is deleted: the key is free.
    if (earlier) return earlier;
  }
}

/** Keeps the answer of a request that was carried out. */
export async function keepAnswer(database: DataSource, id: Buffer, answer: Buffer): Promise<void> {
  await execute(database, 'UPDATE keyed_requests SET answer = $2 WHERE id = $1 AND answer IS NULL', [
    id,
    answer,
  ]);
}

/** Gives a key back, because its request has had no effect. */
export async function releaseKey(database: DataSource, id: Buffer): Promise<void> {
  await execute(database, 'DELETE FROM keyed_requests WHERE id = $1 AND answer IS NULL', [id]);
}

/** Deletes the requests that are remembered no longer. @returns how many */
export async function forgetOldKeys(database: DataSource): Promise<number> {
  let total = 0;
  let deleted: number;
  do {
    deleted = await countChanged(
      database,
      `DELETE FROM keyed_requests WHERE id IN (
         SELECT id FROM keyed_requests WHERE ${IS_OVER} ORDER BY created_at LIMIT ${PURGE_BATCH})`,
    );
    total += deleted;
  } while (deleted === PURGE_BATCH);
  return total;
}
