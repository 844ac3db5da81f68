import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { changeWebhook, ROTATION_HOURS, rotateSecret } from '../../core/webhooks/changes.js';
import { EVENT_GROUPS, SUBSCRIBABLE_TYPES } from '../../core/webhooks/event-types.js';
import { isAllowedHost } from '../../core/webhooks/guard.js';
import { createWebhook, deleteWebhook, listWebhooks } from '../../core/webhooks/subscriptions.js';
import { newWebhook, webhook as webhookAnswer, webhookPage } from '../answers/webhooks.js';
import { can } from '../auth/can.js';
import type { Keys } from '../auth/keys.js';
import { EMPTY } from './answers.js';
import { byId } from './fields.js';
import { type AnyRoute, route, userOf } from './route.js';
import { callerOf, ownWebhook, webhookToJson } from './webhook-calls.js';

interface WebhookDeps {
  database: DataSource;
  keys: Keys;
  webhookAllowPrivate: boolean;
}

const MAX_URL = 2000;

const EVENT_NAMES = [...EVENT_GROUPS, ...SUBSCRIBABLE_TYPES];

const events = z
  .array(z.enum(EVENT_NAMES, `must be some of ${EVENT_NAMES.join(', ')}`))
  .min(1, 'must name at least one type of event')
  .max(EVENT_NAMES.length)
  .transform((names) => [...new Set(names)]);

/** Webhooks of the caller. */
export function webhookRoutes(deps: WebhookDeps): AnyRoute[] {
  const { database, keys } = deps;
  const url = addressIn(deps);
  return [
    route({
      method: 'get',
      path: '/api/webhooks',
      access: 'manage',
      limit: 'status',
      summary: 'My webhooks, without their secrets',
      answers: { 200: webhookPage, 304: EMPTY },
      async handle(call) {
        const principal = userOf(call);
        const webhooks = await listWebhooks(database, principal.userId);
        const items = webhooks
          .filter(({ scope }) => scope === 'own' || can(principal, 'admin'))
          .map(webhookToJson);
        return { items, nextCursor: null };
      },
    }),
    route({
      method: 'post',
      path: '/api/webhooks',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary:
        'Create a webhook, which is told of events from now on; its secret is shown here and never again',
      body: z.strictObject({
        url,
        events,
        scope: z.enum(['own', 'all']).default('own').describe('all: the events of all users, for admins'),
      }),
      answers: { 201: newWebhook },
      problems: ['wrong_state'],
      async handle(call) {
        const { url, events, scope } = call.body;
        const made = { ownerId: userOf(call).userId, scope, url, events };
        const { webhook, secret } = await createWebhook(
          database,
          keys.webhookSecret,
          made,
          callerOf(call, scope),
        );
        call.res.setHeader('Cache-Control', 'no-store');
        return { ...webhookToJson(webhook), secret };
      },
    }),
    route({
      method: 'get',
      path: '/api/webhooks/:id',
      access: 'manage',
      limit: 'status',
      summary: 'One webhook',
      params: byId,
      answers: { 200: webhookAnswer },
      handle: async (call) => webhookToJson(await ownWebhook(database, call)),
    }),
    route({
      method: 'patch',
      path: '/api/webhooks/:id',
      access: 'manage',
      limit: 'processing',
      summary: 'Change a webhook, disable it, or enable it again; it then gets first what it was owed',
      params: byId,
      body: z.strictObject({
        url: url.optional(),
        events: events.optional(),
        enabled: z.boolean().optional(),
      }),
      answers: { 200: webhookAnswer },
      async handle(call) {
        const { id, scope } = await ownWebhook(database, call);
        return webhookToJson(await changeWebhook(database, id, call.body, callerOf(call, scope)));
      },
    }),
    route({
      method: 'delete',
      path: '/api/webhooks/:id',
      access: 'manage',
      limit: 'processing',
      summary: 'Delete a webhook with its deliveries; nothing more is sent',
      params: byId,
      answers: { 204: EMPTY },
      async handle(call) {
        const { id, scope } = await ownWebhook(database, call);
        await deleteWebhook(database, id, callerOf(call, scope));
      },
    }),
    route({
      method: 'post',
      path: '/api/webhooks/:id/rotate-secret',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: `Replace the secret; for ${ROTATION_HOURS} hours messages are signed with the previous one too`,
      params: byId,
      answers: { 200: newWebhook },
      async handle(call) {
        const { id, scope } = await ownWebhook(database, call);
        const { webhook, secret } = await rotateSecret(
          database,
          keys.webhookSecret,
          id,
          callerOf(call, scope),
        );
        call.res.setHeader('Cache-Control', 'no-store');
        return { ...webhookToJson(webhook), secret };
      },
    }),
  ];
}

/** The address of a receiver. Its name is looked up, and checked, when a message is sent. */
function addressIn(deps: WebhookDeps) {
  const reading = (text: string, refuse: (message: string) => void): string => {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (!url || !/^https?:$/.test(url.protocol)) refuse('must be an http or https address');
    else if (url.username || url.password) refuse('must not contain a name or password');
    else if (!deps.webhookAllowPrivate && !isAllowedHost(url.hostname)) {
      refuse('must not be an address of a private network');
    }
    return url?.href ?? '';
  };
  return z
    .string()
    .max(MAX_URL, `must have at most ${MAX_URL} characters`)
    .transform((text, context) => reading(text, (message) => context.addIssue(message)));
}
