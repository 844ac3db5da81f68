import type { DataSource } from 'typeorm';
import type { Event } from '../database/entities/event.js';
import { countChanged, execute, queryRows } from '../database/rows.js';
import { IS_LIVE } from './fan-out.js';

/*
 * A worker claims deliveries that are due, sends them, and records how that went. A claim ends after a while, so that
 * another worker sends what a killed one has left. A delivery may therefore be sent twice, but never by two workers at
 * once, and it always bears the same id.
 *
 * A delivery is due only if no earlier one of the same subscription and subject is unfinished: a receiver hears of a
 * file in the order of the events. When a delivery fails, the later ones of its subject are put off with it, because a
 * claim would else go through all of them each time.
 */

/** Seconds for which a claim holds. Sending and recording take less. */
export const CLAIM_SECONDS = 45;

/** Attempts at once to one subscription in one worker. */
const AT_ONCE = 4;
const AT_ONCE_IF_SLOW = 2;

/** `webhook`: of a user. `hook`: of the operator. */
export type SubscriptionKind = 'webhook' | 'hook';

/** A delivery that this process may send. */
export interface Claim {
  /** The same whenever the event is delivered to this subscription. */
  id: string;
  /** How often the delivery was claimed, with this time. Only the latest claim can record an outcome. */
  attempts: number;
  /** How often it has failed since it was made, or made anew. */
  failures: number;
  isSlow: boolean;
  subscription: ClaimedSubscription;
  event: Pick<Event, 'seq' | 'type' | 'subjectId' | 'ownerId' | 'data' | 'createdAt'>;
}

interface ClaimedSubscription {
  id: string;
  kind: SubscriptionKind;
  scope: 'own' | 'all';
  url: string;
  /** Sealed; see secrets.ts. */
  secret: Buffer | null;
  /** Null as soon as it is not valid any more. */
  previousSecret: Buffer | null;
}

/**
 * Claims deliveries that are due.
 * @param options.busy how many deliveries of which subscriptions this process is sending
 * @param options.quick how many deliveries to claim at most of subscriptions that answer quickly
 * @param options.slow the same for the others, which must not take the places of the quick ones
 */
export async function claimDeliveries(
  database: DataSource,
  options: {
    worker: string;
    kinds: SubscriptionKind[];
    busy: Map<string, number>;
    quick: number;
    slow: number;
  },
): Promise<Claim[]> {
  const { worker, kinds, busy, quick, slow } = options;
  const rows = await queryRows<ClaimedRow>(
    database,
    `WITH RECURSIVE active (id) AS (
       (SELECT subscription_id FROM deliveries WHERE state = 'pending' ORDER BY subscription_id LIMIT 1)
       UNION ALL
       SELECT (SELECT subscription_id FROM deliveries WHERE state = 'pending' AND subscription_id > active.id
               ORDER BY subscription_id LIMIT 1)
       FROM active WHERE active.id IS NOT NULL
     ), room AS (
       SELECT s.id, s.is_slow,
         greatest(0, CASE WHEN s.is_slow THEN ${AT_ONCE_IF_SLOW} ELSE ${AT_ONCE} END - coalesce(busy.count, 0)) AS room
       FROM active JOIN subscriptions s USING (id)
       LEFT JOIN unnest($3::uuid[], $4::integer[]) AS busy (id, count) USING (id)
       WHERE s.kind = ANY ($7) AND ${IS_LIVE}
     ), found AS MATERIALIZED (
       SELECT due.id, room.is_slow, row_number() OVER (PARTITION BY room.id) AS rank
       FROM room CROSS JOIN LATERAL (
         SELECT d.id FROM deliveries d
         WHERE d.subscription_id = room.id AND d.state = 'pending' AND d.next_attempt_at <= now()
           AND (d.claimed_until IS NULL OR d.claimed_until <= now())
           AND d.seq = (
             SELECT min(first.seq) FROM deliveries first
             WHERE first.subscription_id = d.subscription_id AND first.subject_id = d.subject_id
               AND first.state = 'pending')
         ORDER BY d.next_attempt_at, d.seq LIMIT room.room FOR UPDATE SKIP LOCKED
       ) AS due
     ), chosen AS (
       (SELECT id FROM found WHERE NOT is_slow ORDER BY rank LIMIT $5)
       UNION ALL
       (SELECT id FROM found WHERE is_slow ORDER BY rank LIMIT $6)
     )
     UPDATE deliveries d SET attempts = d.attempts + 1, claimed_by = $1, last_attempt_at = now(),
       claimed_until = now() + $2 * interval '1 second', first_attempt_at = coalesce(d.first_attempt_at, now())
     FROM chosen, subscriptions s, events e
     WHERE d.id = chosen.id AND s.id = d.subscription_id AND e.seq = d.seq
     RETURNING d.id, d.attempts, d.failures, s.is_slow AS "isSlow",
       s.id AS "subscriptionId", s.kind, s.scope, s.url, s.secret,
       CASE WHEN s.previous_until > now() THEN s.previous_secret END AS "previousSecret",
       e.seq::float8 AS seq, e.type, e.subject_id AS "subjectId", e.owner_id AS "ownerId", e.data,
       e.created_at AS "createdAt"`,
    [worker, CLAIM_SECONDS, [...busy.keys()], [...busy.values()], quick, slow, kinds],
  );
  return rows.map(toClaim);
}

type ClaimedRow = Pick<Claim, 'id' | 'attempts' | 'failures' | 'isSlow'> &
  Omit<ClaimedSubscription, 'id'> &
  Claim['event'] & { subscriptionId: string };

function toClaim(row: ClaimedRow): Claim {
  const { id, attempts, failures, isSlow, subscriptionId, kind, scope, url, secret, previousSecret } = row;
  const { seq, type, subjectId, ownerId, data, createdAt } = row;
  return {
    id,
    attempts,
    failures,
    isSlow,
    subscription: { id: subscriptionId, kind, scope, url, secret, previousSecret },
    event: { seq, type, subjectId, ownerId, data, createdAt },
  };
}

/** SQL condition on the delivery of a claim, if the claim is still the latest one. */
export const IS_CLAIMED = `id = $1 AND attempts = $2 AND state = 'pending'`;

/** Gives back a delivery that this process stops sending. The attempt may have reached the receiver. */
export async function releaseClaim(database: DataSource, { id, attempts }: Claim): Promise<void> {
  await execute(
    database,
    `UPDATE deliveries SET claimed_until = NULL, claimed_by = NULL WHERE ${IS_CLAIMED}`,
    [id, attempts],
  );
}

/** Ends the claims that a former process of this name has left. @returns how many */
export async function releaseClaimsOf(database: DataSource, worker: string): Promise<number> {
  return countChanged(
    database,
    'UPDATE deliveries SET claimed_until = NULL, claimed_by = NULL WHERE claimed_by = $1',
    [worker],
  );
}
