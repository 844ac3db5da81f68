import { z } from 'zod';
import { id, pageOf, timestamp } from './shapes.js';

export const webhook = z
  .object({
    id,
    url: z.string(),
    events: z.array(z.string()).describe('Types such as file.completed, or file.* and upload.*'),
    scope: z.enum(['own', 'all']).describe('all: the events of all users'),
    enabled: z.boolean(),
    disabledAt: timestamp.nullable(),
    disabledReason: z
      .enum(['by_user', 'failing', 'gone'])
      .nullable()
      .describe('failing: nothing could be delivered for a day; gone: the receiver has answered 410'),
    createdAt: timestamp,
    lastSuccessAt: timestamp.nullable().describe('Exact to the second'),
    lastFailureAt: timestamp.nullable(),
    previousSecretUntil: timestamp
      .nullable()
      .describe('Until then messages are signed with the previous secret too'),
    replaying: z.boolean().describe('Whether a replay still makes deliveries'),
  })
  .meta({ id: 'Webhook' });

export const webhookPage = pageOf(webhook);

export const webhookOverview = webhook
  .omit({ url: true, previousSecretUntil: true, replaying: true })
  .extend({
    ownerId: id,
    host: z.string().describe('Of the address, whose rest may be a secret of its user'),
    pending: z.int().min(0).describe('Deliveries that are still to be sent; 10,000: at least so many'),
    lastAttempt: z
      .object({
        at: timestamp,
        type: z.string().describe('Of the event'),
        status: z.int().nullable(),
        durationMs: z.int().nullable(),
        error: z.string().nullable(),
      })
      .nullable()
      .describe('Null if nothing was sent lately; an attempt under way has no status yet'),
  })
  .meta({ id: 'WebhookOverview' });

export const webhookOverviewPage = pageOf(webhookOverview);

export const newWebhook = webhook.extend({
  secret: z.string().describe('whsec_ and Base64; it is shown here and never again'),
});

export const delivery = z
  .object({
    id: id.describe('The webhook-id of the message: the same for each repetition'),
    webhookId: id,
    seq: z.int().describe('The number of the event'),
    type: z.string(),
    subjectId: id.describe('The upload or file'),
    state: z.enum(['pending', 'delivered', 'failed']),
    attempts: z.int().min(0),
    lastAttemptAt: timestamp.nullable(),
    nextAttemptAt: timestamp
      .nullable()
      .describe('It waits longer while an earlier delivery of the same file is pending'),
    finishedAt: timestamp.nullable(),
    status: z.int().nullable().describe('The HTTP status of the last attempt'),
    durationMs: z.int().nullable().describe('Of the last attempt'),
    answer: z.string().nullable().describe('The first 1,024 bytes of the last answer'),
    error: z
      .string()
      .nullable()
      .describe(
        'Why there is no status: address_refused, connection_refused, connection_broken, name_not_found, timeout, ' +
          'tls_failed, invalid_answer, secret_unreadable',
      ),
  })
  .meta({ id: 'WebhookDelivery' });

export const deliveryPage = pageOf(delivery);
