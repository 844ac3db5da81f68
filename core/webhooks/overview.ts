import type { DataSource } from 'typeorm';
import { queryRows } from '../database/rows.js';
import { COLUMNS, IS_WEBHOOK, type Webhook } from './subscriptions.js';

/* The webhooks of all users, for admins. */

/** Pending deliveries that are counted at most, and how many of the newest deliveries are looked at for the last attempt. */
const MOST_COUNTED = 10_000;
const LOOKED_AT = 100;

export interface WebhookOverview extends Webhook {
  /** Up to MOST_COUNTED. */
  pending: number;
  lastAttemptAt: Date | null;
  lastType: string | null;
  lastStatus: number | null;
  lastDurationMs: number | null;
  lastError: string | null;
}

/** Newest first. @param before id of the last webhook of the page before */
export async function listAllWebhooks(
  database: DataSource,
  before: string | undefined,
  limit: number,
): Promise<WebhookOverview[]> {
  return queryRows(
    database,
    `SELECT webhook.*, last.*, (
       SELECT count(*)::integer FROM (
         SELECT FROM deliveries WHERE subscription_id = webhook.id AND state = 'pending' LIMIT ${MOST_COUNTED}
       ) AS waiting
     ) AS pending
     FROM (
       SELECT ${COLUMNS} FROM subscriptions WHERE ${IS_WEBHOOK} AND ($1::uuid IS NULL OR id < $1)
       ORDER BY id DESC LIMIT $2
     ) AS webhook LEFT JOIN LATERAL (
       SELECT last_attempt_at AS "lastAttemptAt", type AS "lastType", status AS "lastStatus",
         duration_ms AS "lastDurationMs", error AS "lastError"
       FROM (
         SELECT * FROM deliveries WHERE subscription_id = webhook.id ORDER BY seq DESC LIMIT ${LOOKED_AT}
       ) AS newest
       WHERE last_attempt_at IS NOT NULL ORDER BY last_attempt_at DESC LIMIT 1
     ) AS last ON true
     ORDER BY webhook.id DESC`,
    [before ?? null, limit],
  );
}
