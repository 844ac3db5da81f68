import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { replayWebhook, requireEnabled, testWebhook } from '../../core/webhooks/changes.js';
import {
  DELIVERY_STATES,
  type Delivery,
  getDelivery,
  KEPT_DAYS,
  listDeliveries,
  redeliver,
} from '../../core/webhooks/deliveries.js';
import { delivery as deliveryAnswer, deliveryPage, webhook as webhookAnswer } from '../answers/webhooks.js';
import { EMPTY } from './answers.js';
import { byId, pageLimit, time } from './fields.js';
import { type AnyRoute, pageOf, route } from './route.js';
import { callerOf, ownWebhook, webhookToJson } from './webhook-calls.js';

/** The deliveries to the caller's webhooks, and their repetition. */
export function webhookDeliveryRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/webhooks/:id/deliveries',
      access: 'manage',
      limit: 'status',
      summary: `Deliveries of the last ${KEPT_DAYS} days and those to come, the newest event first`,
      params: byId,
      query: z.strictObject({
        state: z.enum(DELIVERY_STATES, `must be ${DELIVERY_STATES.join(', ')}`).optional(),
        cursor: z
          .string()
          .regex(/^\d{1,15}$/, 'must be the nextCursor of a page before')
          .transform(Number)
          .optional(),
        limit: pageLimit,
      }),
      answers: { 200: deliveryPage, 304: EMPTY },
      async handle(call) {
        const { id } = await ownWebhook(database, call);
        const { state, cursor, limit } = call.query;
        const found = await listDeliveries(database, id, { state, before: cursor, limit: limit + 1 });
        const { items, nextCursor } = pageOf(found, limit, ({ seq }) => String(seq));
        return { items: items.map(deliveryToJson), nextCursor };
      },
    }),
    route({
      method: 'post',
      path: '/api/webhooks/deliveries/:id/redeliver',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Deliver an event once more that was delivered, or was given up',
      params: byId,
      answers: { 202: deliveryAnswer },
      problems: ['wrong_state'],
      async handle(call) {
        const { id, subscriptionId } = await getDelivery(database, call.params.id);
        requireEnabled(await ownWebhook(database, call, subscriptionId));
        await redeliver(database, id);
        return deliveryToJson(await getDelivery(database, id));
      },
    }),
    route({
      method: 'post',
      path: '/api/webhooks/:id/replay',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Deliver all events from a time on once more, with the same ids',
      params: byId,
      body: z.strictObject({ from: time }),
      answers: { 202: webhookAnswer },
      problems: ['wrong_state'],
      async handle(call) {
        const { id, scope } = await ownWebhook(database, call);
        return webhookToJson(await replayWebhook(database, id, call.body.from, callerOf(call, scope)));
      },
    }),
    route({
      method: 'post',
      path: '/api/webhooks/:id/test',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Deliver an event of the type webhook.test; the list of deliveries tells what came of it',
      params: byId,
      answers: { 202: EMPTY },
      problems: ['wrong_state'],
      async handle(call) {
        const { id, scope } = await ownWebhook(database, call);
        await testWebhook(database, id, callerOf(call, scope));
      },
    }),
  ];
}

function deliveryToJson({ subscriptionId: webhookId, ...shown }: Delivery): z.output<typeof deliveryAnswer> {
  return { ...shown, webhookId };
}
