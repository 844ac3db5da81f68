import { createHmac, type KeyObject } from 'node:crypto';
import { toPublicEvent } from '../events/types.js';
import type { Claim } from './claims.js';
import type { Outcome } from './outcomes.js';
import type { Post } from './post.js';
import { openWebhookSecret } from './secrets.js';
import type { Sender } from './sender.js';

/*
 * A webhook's message, after the specification Standard Webhooks 1.0: JSON of `{ type, timestamp, data }`, and three
 * headers, of which the last one signs id, time and body.
 */

/** A change of JWT_SECRET makes stored secrets unreadable. Nothing is sent without a signature. */
const NO_SECRET: Outcome = {
  isDelivered: false,
  status: null,
  durationMs: 0,
  answer: null,
  error: 'secret_unreadable',
};

/** @param options.key see deriveWebhookKey() */
export function createWebhookSender(options: {
  post: Post;
  key: KeyObject;
  retrySeconds: readonly number[];
}): Sender {
  const { post, key, retrySeconds } = options;
  return {
    retrySeconds,
    async send(claim, signal) {
      const { id, subscription } = claim;
      const secrets = [subscription.secret, subscription.previousSecret]
        .filter((sealed) => sealed !== null)
        .map((sealed) => openWebhookSecret(sealed, subscription.id, key));
      if (secrets[0] === undefined) return NO_SECRET;
      const body = JSON.stringify(messageOf(claim));
      const known = secrets.filter((secret) => secret !== undefined);
      return post({ url: subscription.url, headers: signedHeaders(id, body, known), body, signal });
    },
  };
}

/** The headers of a message: its type, and its signatures with these secrets. @param id of the message, unique */
export function signedHeaders(id: string, body: string, secrets: readonly Buffer[]): Record<string, string> {
  const timestamp = Math.floor(Date.now() / 1000);
  const signed = `${id}.${timestamp}.${body}`;
  return {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(timestamp),
    // "the signature header can contain multiple signatures, separated by spaces"
    'webhook-signature': secrets
      .map((secret) => `v1,${createHmac('sha256', secret).update(signed).digest('base64')}`)
      .join(' '),
  };
}

/** A subscriber of all users' events needs to know whose each one is. */
function messageOf({ subscription, event }: Claim): object {
  const { seq, type, subjectId, data, createdAt } = toPublicEvent(event);
  const owner = subscription.scope === 'all' ? { ownerId: event.ownerId } : {};
  return { type, timestamp: createdAt, data: { ...data, seq, subjectId, ...owner } };
}
