import { type Listener, openListener } from '../../core/database/listen.js';
import { appendEvents } from '../../core/events/append.js';
import { type Sequencer, startSequencer } from '../../core/events/sequence.js';
import type { NewEvent } from '../../core/events/types.js';
import { createLogger } from '../../core/log.js';
import { createMetrics } from '../../core/metrics/metrics.js';
import type { Delivery } from '../../core/webhooks/deliveries.js';
import { listDeliveries } from '../../core/webhooks/deliveries.js';
import { createWebhookSender } from '../../core/webhooks/message.js';
import { createPost, type PostOptions } from '../../core/webhooks/post.js';
import { deriveWebhookKey } from '../../core/webhooks/secrets.js';
import { createWebhook } from '../../core/webhooks/subscriptions.js';
import { startDelivery } from '../../worker/passes/deliver.js';
import { openLedger, type TestLedger } from './ledger.js';
import { until } from './until.js';

/* The delivery of webhooks in this process, without server and worker. */

const KEY = deriveWebhookKey('a secret of the tests, long enough');

/** What a caller of core/webhooks passes. */
export const CALLER = { actor: {}, admit: async () => {} };

const log = createLogger('silent', 'test');

export interface TestDelivery {
  ledger: TestLedger;
  /** Starts a worker's delivery. @returns a function that stops it */
  start(name: string, options?: Partial<PostOptions> & { retrySeconds?: number[] }): () => Promise<void>;
  /** A webhook of the ledger's owner, for all events of files if `events` is not given. */
  subscribe(url: string, events?: string[]): Promise<{ id: string; secret: string }>;
  /** Appends events of a file: one for each run. */
  happen(fileId: string, ...runs: number[]): Promise<void>;
  append(...events: NewEvent[]): Promise<void>;
  /** The deliveries of a webhook, in the order of their events. */
  deliveries(id: string): Promise<Delivery[]>;
  /** Waits until each delivery of a webhook, of which there are `count`, has ended. */
  ended(id: string, count: number): Promise<Delivery[]>;
  close(): Promise<void>;
}

export async function openDelivery(reach?: (url: string) => Promise<string>): Promise<TestDelivery> {
  const ledger = await openLedger(reach);
  const { database, ownerId } = ledger;
  const sequencer: Sequencer = startSequencer(database, log);
  const metrics = createMetrics(log);
  const listeners: Listener[] = [];
  const stops = new Set<() => Promise<void>>();

  const test: TestDelivery = {
    ledger,
    start(name, { retrySeconds = [1, 1], allowPrivate = true, ...options } = {}) {
      const opened = openListener(ledger.url, log);
      // The delivery subscribes as soon as the connection is there.
      const listener: Listener = {
        subscribe: async (...args) => (await opened).subscribe(...args),
        close: async () => (await opened).close(),
      };
      listeners.push(listener);
      const post = createPost({ allowPrivate, ...options });
      const senders = { webhook: createWebhookSender({ post, key: KEY, retrySeconds }) };
      const end = startDelivery({ database, listener, workerName: name, senders, metrics, log });
      const stop = async () => {
        stops.delete(stop);
        await end();
      };
      stops.add(stop);
      return stop;
    },
    async subscribe(url, events = ['file.*']) {
      const made = { ownerId, scope: 'own' as const, url, events };
      const { webhook, secret } = await createWebhook(database, KEY, made, CALLER);
      return { id: webhook.id, secret };
    },
    async happen(fileId, ...runs) {
      await test.append(
        ...runs.map(
          (run): NewEvent => ({ type: 'file.processing', subjectId: fileId, ownerId, data: { run } }),
        ),
      );
    },
    append: (...events) => appendEvents(database.manager, events),
    deliveries: async (id) => (await listDeliveries(database, id, { limit: 20_000 })).reverse(),
    ended: (id, count) =>
      until(`${count} deliveries to end`, async () => {
        const all = await test.deliveries(id);
        return all.length >= count && all.every(({ state }) => state !== 'pending') && all;
      }),
    async close() {
      await Promise.all([...stops].map((stop) => stop()));
      await Promise.all(listeners.map((listener) => listener.close()));
      await sequencer.stop();
      await ledger.close();
    },
  };
  return test;
}
