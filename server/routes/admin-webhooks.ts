import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { testWebhook } from '../../core/webhooks/changes.js';
import { listAllWebhooks, type WebhookOverview } from '../../core/webhooks/overview.js';
import { webhookOverview, webhookOverviewPage } from '../answers/webhooks.js';
import { EMPTY } from './answers.js';
import { byId, idCursor, pageLimit } from './fields.js';
import { type AnyRoute, pageOf, route } from './route.js';
import { callerOf } from './webhook-calls.js';

/** The webhooks of all users, for admins. */
export function adminWebhookRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/admin/webhooks',
      access: 'admin',
      limit: 'status',
      summary: 'The webhooks of all users with their last results, newest first',
      query: z.strictObject({ cursor: idCursor, limit: pageLimit }),
      answers: { 200: webhookOverviewPage, 304: EMPTY },
      async handle({ query: { cursor, limit } }) {
        const found = await listAllWebhooks(database, cursor, limit + 1);
        const { items, nextCursor } = pageOf(found, limit, ({ id }) => id);
        return { items: items.map(toJson), nextCursor };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/webhooks/:id/test',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary: 'Deliver an event of the type webhook.test to the webhook of any user',
      params: byId,
      answers: { 202: EMPTY },
      problems: ['wrong_state'],
      handle: (call) => testWebhook(database, call.params.id, callerOf(call, 'all')),
    }),
  ];
}

/** Of the address only the host: the rest of it may be a secret of its user. */
function toJson(webhook: WebhookOverview): z.output<typeof webhookOverview> {
  const { id, ownerId, url, events, scope, disabledAt, disabledReason, createdAt } = webhook;
  const { lastSuccessAt, lastFailureAt, pending, lastAttemptAt, lastType } = webhook;
  return {
    id,
    ownerId,
    host: new URL(url).host,
    events,
    scope,
    enabled: disabledAt === null,
    disabledAt,
    disabledReason,
    createdAt,
    lastSuccessAt,
    lastFailureAt,
    pending,
    lastAttempt:
      lastAttemptAt && lastType
        ? {
            at: lastAttemptAt,
            type: lastType,
            status: webhook.lastStatus,
            durationMs: webhook.lastDurationMs,
            error: webhook.lastError,
          }
        : null,
  };
}
