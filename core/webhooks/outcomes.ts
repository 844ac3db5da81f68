import type { DataSource, EntityManager } from 'typeorm';
import { countChanged, execute, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import { type Claim, IS_CLAIMED } from './claims.js';

/* The outcome of each attempt is recorded in the delivery, and in its subscription. */

/** An attempt that takes longer, or fails, makes its subscription a slow one. In milliseconds. */
export const SLOW_MS = 1_000;

/** The outcome of an attempt. */
export interface Outcome {
  isDelivered: boolean;
  /** The HTTP status; null if there was none. */
  status: number | null;
  durationMs: number;
  /** The beginning of the answer. */
  answer: string | null;
  /** Why the attempt failed, if the status does not say so. */
  error: string | null;
}

/** What every recorded outcome sets. */
const OUTCOME =
  'status = $3, duration_ms = $4, answer = $5, error = $6, claimed_until = NULL, claimed_by = NULL';

/** Sets the next attempt of the later deliveries of the subject that are not under way. */
const LATER = (nextAttempt: string) => `UPDATE deliveries d SET next_attempt_at = ${nextAttempt} FROM recorded
  WHERE d.subscription_id = recorded.subscription_id AND d.subject_id = recorded.subject_id
    AND d.seq > recorded.seq AND d.state = 'pending' AND d.claimed_until IS NULL`;

const RETURNED = 'subscription_id, subject_id, seq';

/** Records that the receiver has taken a delivery. */
export async function recordDelivered(database: DataSource, claim: Claim, outcome: Outcome): Promise<void> {
  await execute(
    database,
    `WITH recorded AS (
       UPDATE deliveries SET state = 'delivered', finished_at = now(), ${OUTCOME} WHERE ${IS_CLAIMED}
       RETURNING ${RETURNED}
     ), later AS (${LATER('least(d.next_attempt_at, now())')})
     UPDATE subscriptions s SET last_success_at = now(), is_slow = $7 FROM recorded
     WHERE s.id = recorded.subscription_id
       -- Not with each delivery: many at once would wait for this row.
       AND (s.is_slow <> $7 OR coalesce(s.last_success_at < now() - interval '1 second', true))`,
    [...claimAndOutcome(claim, outcome), outcome.durationMs > SLOW_MS],
  );
}

/** Records that an attempt has failed, and when the next one is due. @param delaySeconds until the next attempt */
export async function recordFailed(
  database: DataSource,
  claim: Claim,
  outcome: Outcome,
  delaySeconds: number,
): Promise<void> {
  await execute(
    database,
    `WITH recorded AS (
       UPDATE deliveries SET failures = failures + 1, next_attempt_at = now() + $7 * interval '1 second', ${OUTCOME}
       WHERE ${IS_CLAIMED} RETURNING ${RETURNED}, next_attempt_at
     ), later AS (${LATER('greatest(d.next_attempt_at, recorded.next_attempt_at)')})
     UPDATE subscriptions s SET last_failure_at = now(), is_slow = true FROM recorded
     WHERE s.id = recorded.subscription_id`,
    [...claimAndOutcome(claim, outcome), delaySeconds],
  );
}

/**
 * Records that the last attempt of a delivery has failed. If nothing was delivered to the subscription since the first
 * attempt, the subscription is disabled, except for a hook: an operator's receiver is called until it answers.
 * @returns whether the subscription was disabled
 */
export async function recordGivenUp(database: DataSource, claim: Claim, outcome: Outcome): Promise<boolean> {
  return database.transaction(async (manager) => {
    const [recorded] = await queryRows<{ isDead: boolean }>(
      manager,
      `WITH recorded AS (
         UPDATE deliveries SET state = 'failed', failures = failures + 1, finished_at = now(), ${OUTCOME}
         WHERE ${IS_CLAIMED} RETURNING ${RETURNED}, first_attempt_at
       ), later AS (${LATER('least(d.next_attempt_at, now())')})
       UPDATE subscriptions s SET last_failure_at = now(), is_slow = true FROM recorded
       WHERE s.id = recorded.subscription_id
       RETURNING coalesce(s.last_success_at < recorded.first_attempt_at, true) AS "isDead"`,
      claimAndOutcome(claim, outcome),
    );
    if (!recorded?.isDead || claim.subscription.kind === 'hook') return false;
    return disable(manager, claim.subscription.id, 'failing');
  });
}

/**
 * Records that a receiver wants no more (410 Gone): its webhook is disabled. The delivery stays unfinished, like all that
 * a disabled webhook is still owed.
 */
export async function recordGone(database: DataSource, claim: Claim, outcome: Outcome): Promise<boolean> {
  return database.transaction(async (manager) => {
    const recorded = await countChanged(
      manager,
      `UPDATE deliveries SET failures = failures + 1, ${OUTCOME} WHERE ${IS_CLAIMED}`,
      claimAndOutcome(claim, outcome),
    );
    return recorded > 0 && (await disable(manager, claim.subscription.id, 'gone'));
  });
}

function claimAndOutcome({ id, attempts }: Claim, { status, durationMs, answer, error }: Outcome): unknown[] {
  return [id, attempts, status, durationMs, answer, error];
}

/** @param manager part of its transaction */
async function disable(manager: EntityManager, id: string, reason: 'failing' | 'gone'): Promise<boolean> {
  const [disabled] = await queryRows<{ ownerId: string | null }>(
    manager,
    `UPDATE subscriptions SET disabled_at = now(), disabled_reason = $2, last_failure_at = now()
     WHERE id = $1 AND disabled_at IS NULL AND deleted_at IS NULL RETURNING owner_id AS "ownerId"`,
    [id, reason],
  );
  if (!disabled) return false;
  const event = { type: 'webhook.disabled', subjectId: id, ownerId: disabled.ownerId } as const;
  await appendEvents(manager, [{ ...event, data: { reason } }]);
  return true;
}
