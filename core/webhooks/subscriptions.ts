import type { KeyObject } from 'node:crypto';
import type { DataSource, EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../database/entities/event.js';
import { type Database, execute, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import type { NewEvent } from '../events/types.js';
import { newWebhookSecret } from './secrets.js';

/* The webhooks of users: subscriptions of the kind `webhook`. Each change appends an event. */

/** Webhooks of one user. */
const MAX_WEBHOOKS = 20;

export interface Webhook {
  id: string;
  ownerId: string;
  /** `all`: events of all users, for an admin. */
  scope: 'own' | 'all';
  url: string;
  events: string[];
  createdAt: Date;
  lastSuccessAt: Date | null;
  lastFailureAt: Date | null;
  disabledAt: Date | null;
  disabledReason: 'by_user' | 'failing' | 'gone' | null;
  /** Until when messages are signed with the previous secret too; null: they are not. */
  previousSecretUntil: Date | null;
  isReplaying: boolean;
}

/** Columns of a Webhook. */
export const COLUMNS = `id, owner_id AS "ownerId", scope, url, events, created_at AS "createdAt",
  last_success_at AS "lastSuccessAt", last_failure_at AS "lastFailureAt", disabled_at AS "disabledAt",
  disabled_reason AS "disabledReason", CASE WHEN previous_until > now() THEN previous_until END AS "previousSecretUntil",
  replay_to IS NOT NULL AS "isReplaying"`;

export const IS_WEBHOOK = `kind = 'webhook' AND deleted_at IS NULL`;

/** A request that changes a webhook. */
export interface WebhookCaller {
  actor: Actor;
  /** Locks the caller's account until the end of the transaction. @throws {AppError} unauthenticated */
  admit(manager: EntityManager): Promise<unknown>;
}

/** Webhooks of one user, newest first. */
export async function listWebhooks(database: DataSource, ownerId: string): Promise<Webhook[]> {
  return queryRows(
    database,
    `SELECT ${COLUMNS} FROM subscriptions WHERE owner_id = $1 AND ${IS_WEBHOOK} ORDER BY id DESC`,
    [ownerId],
  );
}

/** @throws {AppError} not_found */
export async function getWebhook(
  database: Database,
  id: string,
  lock: '' | 'FOR UPDATE' = '',
): Promise<Webhook> {
  const [webhook] = await queryRows<Webhook>(
    database,
    `SELECT ${COLUMNS} FROM subscriptions WHERE id = $1 AND ${IS_WEBHOOK} ${lock}`,
    [id],
  );
  if (!webhook) throw new AppError('not_found');
  return webhook;
}

/**
 * Creates a webhook. It gets the events that are numbered from now on. The secret is returned here and never again.
 * @param key see deriveWebhookKey()
 * @throws {AppError} wrong_state when the owner has too many
 */
export async function createWebhook(
  database: DataSource,
  key: KeyObject,
  made: Pick<Webhook, 'ownerId' | 'scope' | 'url' | 'events'>,
  caller: WebhookCaller,
): Promise<{ webhook: Webhook; secret: string }> {
  const { ownerId, scope, url, events } = made;
  const id = uuidv7();
  const { secret, sealed } = newWebhookSecret(id, key);
  const webhook = await database.transaction(async (manager) => {
    // The lock also makes parallel requests wait until this webhook is counted.
    await caller.admit(manager);
    const [present] = await queryRows<{ count: number }>(
      manager,
      `SELECT count(*)::integer AS count FROM subscriptions WHERE owner_id = $1 AND ${IS_WEBHOOK}`,
      [ownerId],
    );
    if (!present || present.count >= MAX_WEBHOOKS) {
      throw new AppError('wrong_state', { detail: `There are ${MAX_WEBHOOKS} webhooks: delete one first` });
    }
    await execute(
      manager,
      `INSERT INTO subscriptions (id, kind, owner_id, scope, url, events, secret, after_seq)
       SELECT $1, 'webhook', $2, $3, $4, $5, $6, seq FROM event_head`,
      [id, ownerId, scope, url, events, sealed],
    );
    const data = { host: new URL(url).host, events, scope };
    await appendEvents(manager, [{ type: 'webhook.created', ...about({ id, ownerId }, caller), data }]);
    return getWebhook(manager, id);
  });
  return { webhook, secret };
}

/** Deletes a webhook. Nothing is sent any more; a pass deletes its deliveries. @throws {AppError} not_found */
export async function deleteWebhook(database: DataSource, id: string, caller: WebhookCaller): Promise<void> {
  await database.transaction(async (manager) => {
    const webhook = await getWebhook(manager, id, 'FOR UPDATE');
    await execute(
      manager,
      'UPDATE subscriptions SET deleted_at = now(), secret = NULL, previous_secret = NULL WHERE id = $1',
      [id],
    );
    await appendEvents(manager, [{ type: 'webhook.deleted', ...about(webhook, caller) }]);
  });
}

/** What the event of a change is about. */
export function about(
  { id, ownerId }: Pick<Webhook, 'id' | 'ownerId'>,
  { actor }: WebhookCaller,
): Pick<NewEvent, 'subjectId' | 'ownerId' | 'actor'> {
  return { subjectId: id, ownerId, actor };
}
