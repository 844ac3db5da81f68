import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import { AppError } from '../../core/errors.js';
import { getWebhook, type Webhook, type WebhookCaller } from '../../core/webhooks/subscriptions.js';
import type { webhook as webhookAnswer } from '../answers/webhooks.js';
import { can } from '../auth/can.js';
import { lockAccount } from '../auth/sessions.js';
import type { byId } from './fields.js';
import { type Call, signedInActor, userOf } from './route.js';

/* What the routes of webhooks share. */

/** The webhook, if it is the caller's. With an API key an admin has no access to other users' events. */
export async function ownWebhook(
  database: DataSource,
  call: Call<z.output<typeof byId>, unknown, unknown>,
  id = call.params.id,
): Promise<Webhook> {
  const webhook = call.own(await getWebhook(database, id));
  if (webhook.scope === 'all' && !can(userOf(call), 'admin')) throw new AppError('not_found');
  return webhook;
}

export function callerOf(
  call: Pick<Call<unknown, unknown, unknown>, 'principal' | 'req'>,
  scope: Webhook['scope'],
): WebhookCaller {
  const actor = signedInActor(call);
  return {
    actor,
    async admit(manager) {
      const role = await lockAccount(manager, actor);
      // A key of an admin has not the rights of an admin.
      const isAdmin = role === 'admin' && can(userOf(call), 'admin');
      if (scope === 'all' && !isAdmin)
        throw new AppError('forbidden', { detail: 'Only admins may use scope all' });
    },
  };
}

export function webhookToJson(webhook: Webhook): z.output<typeof webhookAnswer> {
  const { ownerId: _, isReplaying: replaying, ...shown } = webhook;
  return { ...shown, enabled: shown.disabledAt === null, replaying };
}
