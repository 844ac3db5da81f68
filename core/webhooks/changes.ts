import type { KeyObject } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { countChanged, execute } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import { DELIVERIES_WANTED } from './deliveries.js';
import { TEST_EVENT } from './event-types.js';
import { newWebhookSecret } from './secrets.js';
import { about, getWebhook, IS_WEBHOOK, type Webhook, type WebhookCaller } from './subscriptions.js';

/* What owners do with their webhooks. Each change appends an event. */

/** Hours for which messages are signed with the previous secret too. */
export const ROTATION_HOURS = 24;

/** Deliveries that become due in one statement when a webhook is enabled again. */
const RESUME_BATCH = 5000;

/**
 * Changes a webhook. If it is enabled again, it first gets what it was owed when it was disabled.
 * @throws {AppError} not_found
 */
export async function changeWebhook(
  database: DataSource,
  id: string,
  change: { url?: string | undefined; events?: string[] | undefined; enabled?: boolean | undefined },
  caller: WebhookCaller,
): Promise<Webhook> {
  const { url, events, enabled } = change;
  const changed = await database.transaction(async (manager) => {
    await caller.admit(manager);
    const before = await getWebhook(manager, id, 'FOR UPDATE');
    await execute(
      manager,
      `UPDATE subscriptions SET url = coalesce($2, url), events = coalesce($3, events) WHERE id = $1`,
      [id, url ?? null, events ?? null],
    );
    if (enabled !== undefined && enabled !== (before.disabledAt === null))
      await (enabled ? enable : disable)(manager, id);
    const data = {
      ...(url === undefined ? {} : { host: new URL(url).host }),
      ...(events === undefined ? {} : { events }),
      ...(enabled === undefined ? {} : { enabled }),
    };
    await appendEvents(manager, [{ type: 'webhook.changed', ...about(before, caller), data }]);
    return getWebhook(manager, id);
  });
  if (enabled) await resume(database, id);
  return changed;
}

async function disable(manager: EntityManager, id: string): Promise<void> {
  await execute(
    manager,
    `UPDATE subscriptions SET disabled_at = now(), disabled_reason = 'by_user' WHERE id = $1`,
    [id],
  );
}

/** Events from while it was disabled are not delivered; a replay brings them. */
async function enable(manager: EntityManager, id: string): Promise<void> {
  await execute(
    manager,
    `UPDATE subscriptions SET disabled_at = NULL, disabled_reason = NULL, after_seq = (SELECT seq FROM event_head)
     WHERE id = $1`,
    [id],
  );
}

/** Makes what a webhook is owed due now, with all its repetitions. */
async function resume(database: DataSource, id: string): Promise<void> {
  let resumed: number;
  do {
    resumed = await countChanged(
      database,
      `UPDATE deliveries SET next_attempt_at = now(), failures = 0, first_attempt_at = NULL WHERE id IN (
         SELECT id FROM deliveries
         WHERE subscription_id = $1 AND state = 'pending' AND claimed_until IS NULL
           AND (failures > 0 OR next_attempt_at > now()) LIMIT $2)`,
      [id, RESUME_BATCH],
    );
  } while (resumed === RESUME_BATCH);
  await wakeWorkers(database);
}

/**
 * Gives a webhook a new secret. Messages are signed with the old one too, for ROTATION_HOURS.
 * @throws {AppError} not_found
 */
export async function rotateSecret(
  database: DataSource,
  key: KeyObject,
  id: string,
  caller: WebhookCaller,
): Promise<{ webhook: Webhook; secret: string }> {
  const { secret, sealed } = newWebhookSecret(id, key);
  const webhook = await database.transaction(async (manager) => {
    await caller.admit(manager);
    await execute(
      manager,
      `UPDATE subscriptions SET secret = $2, previous_secret = secret,
         previous_until = now() + interval '${ROTATION_HOURS} hours' WHERE id = $1 AND ${IS_WEBHOOK}`,
      [id, sealed],
    );
    const rotated = await getWebhook(manager, id);
    await appendEvents(manager, [{ type: 'webhook.rotated', ...about(rotated, caller) }]);
    return rotated;
  });
  return { webhook, secret };
}

/**
 * Asks for all events of a webhook from a time on, once more. The workers make the deliveries.
 * @throws {AppError} not_found; wrong_state when it is disabled, or another replay is under way
 */
export async function replayWebhook(
  database: DataSource,
  id: string,
  from: Date,
  caller: WebhookCaller,
): Promise<Webhook> {
  const replaying = await database.transaction(async (manager) => {
    const webhook = await getWebhook(manager, id, 'FOR UPDATE');
    requireEnabled(webhook);
    if (webhook.isReplaying) throw new AppError('wrong_state', { detail: 'A replay is under way' });
    // Numbers follow the order of commits, and times that of the beginnings of transactions, which last less than an hour.
    await execute(
      manager,
      `UPDATE subscriptions SET replay_from = $2, replay_to = head.seq, replay_after = coalesce((
         SELECT seq FROM events WHERE seq IS NOT NULL AND created_at < $2::timestamptz - interval '1 hour'
         ORDER BY created_at DESC LIMIT 1), 0)
       FROM event_head AS head WHERE id = $1`,
      [id, from],
    );
    const data = { from: from.toISOString() };
    await appendEvents(manager, [{ type: 'webhook.replayed', ...about(webhook, caller), data }]);
    return getWebhook(manager, id);
  });
  await wakeWorkers(database);
  return replaying;
}

/** Sends a test event to a webhook. @throws {AppError} not_found; wrong_state when it is disabled */
export async function testWebhook(database: DataSource, id: string, caller: WebhookCaller): Promise<void> {
  await database.transaction(async (manager) => {
    const webhook = await getWebhook(manager, id);
    requireEnabled(webhook);
    await appendEvents(manager, [{ type: TEST_EVENT, ...about(webhook, caller) }]);
  });
}

/** @throws {AppError} wrong_state */
export function requireEnabled({ disabledAt }: Webhook): void {
  if (disabledAt) throw new AppError('wrong_state', { detail: 'The webhook is disabled: enable it first' });
}

/** Tells the workers that there is something to deliver. */
async function wakeWorkers(database: DataSource): Promise<void> {
  await execute(database, `NOTIFY ${DELIVERIES_WANTED}`);
}
