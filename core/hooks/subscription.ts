import type { DataSource } from 'typeorm';
import type { HookConfig } from '../config-groups.js';
import { execute } from '../database/rows.js';
import type { HookType } from './question.js';

/*
 * The post hooks are a subscription of the kind `hook` to the event log, like a webhook: their events are delivered in the
 * order of each upload, repeated until the receiver takes them, and survive every crash.
 */

/** The one subscription of this kind. */
const ID = '00000000-0000-8000-8000-686f6f6b7300';

/**
 * The hooks of tusd by the events of this server. An upload that expires, and a file that is deleted for good, are gone like
 * one that a client has terminated: the receiver may clean up.
 */
export const HOOK_OF_EVENT: Readonly<Record<string, HookType>> = {
  'upload.created': 'post-create',
  'file.created': 'post-finish',
  'upload.terminated': 'post-terminate',
  'upload.expired': 'post-terminate',
  'file.purged': 'post-terminate',
};

/**
 * Makes the subscription fit the configuration. It gets the events from its first start on. While no post hooks are configured
 * it is disabled, and gets none of the events of that time later.
 */
export async function keepHookSubscription(
  database: DataSource,
  config: HookConfig | undefined,
): Promise<void> {
  const events = Object.entries(HOOK_OF_EVENT)
    .filter(([, type]) => config?.events.includes(type))
    .map(([event]) => event);
  if (events.length === 0) {
    await execute(
      database,
      `UPDATE subscriptions SET disabled_at = now(), disabled_reason = 'by_user'
       WHERE id = $1 AND disabled_at IS NULL`,
      [ID],
    );
    return;
  }
  // The address may hold a password, so it stays in the configuration.
  await execute(
    database,
    `INSERT INTO subscriptions AS kept (id, kind, owner_id, scope, url, events, after_seq)
     SELECT $1, 'hook', NULL, 'all', 'HOOK_URL', $2, seq FROM event_head
     ON CONFLICT (id) DO UPDATE SET events = excluded.events, disabled_at = NULL, disabled_reason = NULL,
       after_seq = CASE WHEN kept.disabled_at IS NULL THEN kept.after_seq ELSE excluded.after_seq END
     WHERE kept.disabled_at IS NOT NULL OR kept.events <> excluded.events`,
    [ID, events],
  );
}
