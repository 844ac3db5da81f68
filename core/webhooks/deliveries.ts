import type { DataSource } from 'typeorm';
import { countChanged, execute, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { MADE_ANEW } from './fan-out.js';

/* The log of deliveries: what was sent to a subscription, what came of it, and what is still to be sent. */

/** Channel of PostgreSQL on which a server asks the workers to look for deliveries. */
export const DELIVERIES_WANTED = 'deliveries_wanted';

/** Days for which a delivery is kept after its end, and for which a disabled subscription is owed the rest. */
export const KEPT_DAYS = 7;

/** Rows that are deleted in one statement. */
const FORGET_BATCH = 1000;

export const DELIVERY_STATES = ['pending', 'delivered', 'failed'] as const;

export type DeliveryState = (typeof DELIVERY_STATES)[number];

export interface Delivery {
  id: string;
  subscriptionId: string;
  /** The number of the event. */
  seq: number;
  type: string;
  subjectId: string;
  state: DeliveryState;
  /** Attempts, with those that a worker could not bring to an end. */
  attempts: number;
  lastAttemptAt: Date | null;
  /** Null: the delivery has ended. It may come later, because an earlier one of the same subject is unfinished. */
  nextAttemptAt: Date | null;
  finishedAt: Date | null;
  /** Of the last attempt: the HTTP status, … */
  status: number | null;
  /** … milliseconds, … */
  durationMs: number | null;
  /** … the beginning of the answer, … */
  answer: string | null;
  /** … and why there is none. */
  error: string | null;
}

const COLUMNS = `id, subscription_id AS "subscriptionId", seq::float8 AS seq, type, subject_id AS "subjectId", state,
  attempts, last_attempt_at AS "lastAttemptAt",
  CASE WHEN state = 'pending' THEN next_attempt_at END AS "nextAttemptAt", finished_at AS "finishedAt", status,
  duration_ms AS "durationMs", answer, error`;

/** Newest events first. @param before only those with smaller numbers */
export async function listDeliveries(
  database: DataSource,
  subscriptionId: string,
  { state, before, limit }: { state?: DeliveryState | undefined; before?: number | undefined; limit: number },
): Promise<Delivery[]> {
  return queryRows(
    database,
    `SELECT ${COLUMNS} FROM deliveries
     WHERE subscription_id = $1 AND ($2::bigint IS NULL OR seq < $2)${state ? ` AND state = '${state}'` : ''}
     ORDER BY seq DESC LIMIT $3`,
    [subscriptionId, before ?? null, limit],
  );
}

/** @throws {AppError} not_found */
export async function getDelivery(database: DataSource, id: string): Promise<Delivery> {
  const [delivery] = await queryRows<Delivery>(database, `SELECT ${COLUMNS} FROM deliveries WHERE id = $1`, [
    id,
  ]);
  if (!delivery) throw new AppError('not_found');
  return delivery;
}

/** Sends a finished delivery again, under the same id. @throws {AppError} wrong_state when it is not finished */
export async function redeliver(database: DataSource, id: string): Promise<void> {
  const changed = await countChanged(
    database,
    `UPDATE deliveries SET ${MADE_ANEW} WHERE id = $1 AND state <> 'pending'`,
    [id],
  );
  if (changed === 0) throw new AppError('wrong_state', { detail: 'The delivery is not finished yet' });
  await execute(database, `NOTIFY ${DELIVERIES_WANTED}`);
}

/** Deletes deliveries that are kept no longer, and deleted subscriptions. @returns how many deliveries */
export async function forgetDeliveries(database: DataSource): Promise<number> {
  const old = await deleteInBatches(
    database,
    `finished_at < now() - interval '${KEPT_DAYS} days' ORDER BY finished_at`,
  );
  const abandoned = await queryRows<{ id: string }>(
    database,
    `SELECT id FROM subscriptions
     WHERE deleted_at IS NOT NULL OR disabled_at < now() - interval '${KEPT_DAYS} days'`,
  );
  const ids = abandoned.map(({ id }) => id);
  const owed = await deleteInBatches(database, 'subscription_id = ANY ($1::uuid[])', [ids]);
  await execute(
    database,
    `DELETE FROM subscriptions s WHERE deleted_at IS NOT NULL
       AND NOT EXISTS (SELECT FROM deliveries d WHERE d.subscription_id = s.id)`,
  );
  return old + owed;
}

async function deleteInBatches(
  database: DataSource,
  which: string,
  parameters: unknown[] = [],
): Promise<number> {
  let total = 0;
  let deleted: number;
  do {
    deleted = await countChanged(
      database,
      `DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE ${which} LIMIT ${FORGET_BATCH})`,
      parameters,
    );
    total += deleted;
  } while (deleted === FORGET_BATCH);
  return total;
}
