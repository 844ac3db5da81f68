import { setTimeout as pause } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import type { Listener } from '../../core/database/listen.js';
import { GROWN } from '../../core/events/sequence.js';
import type { Logger } from '../../core/log.js';
import type { Metrics } from '../../core/metrics/metrics.js';
import {
  CLAIM_SECONDS,
  type Claim,
  claimDeliveries,
  recordDelivered,
  recordFailed,
  recordGivenUp,
  recordGone,
  releaseClaim,
  releaseClaimsOf,
  type SubscriptionKind,
} from '../../core/webhooks/claims.js';
import { DELIVERIES_WANTED } from '../../core/webhooks/deliveries.js';
import { fanOut, fanOutReplays } from '../../core/webhooks/fan-out.js';
import type { Sender, Sent } from '../../core/webhooks/sender.js';

/*
 * Delivers events to subscribers, in every worker. The worker fans events out when the log has grown, claims deliveries
 * while it has places, and sends them. It also looks from time to time, because notifications can be lost, because a
 * repetition is due, and because another worker may have died.
 */

/** How often a worker looks without a notification, in milliseconds. */
const LOOK_EVERY_MS = 2_000;

/**
 * Deliveries that one worker sends at once: to subscribers that answer quickly, and to the others. Slow ones, however
 * many there are, take no place from quick ones.
 */
const QUICK_PLACES = 32;
const SLOW_PLACES = 32;

/** Limits of a delay that a receiver has asked for, in seconds. */
const LONGEST_DELAY = 86_400;

/** Pause before an outcome that the database did not take is recorded again, in milliseconds. */
const RECORD_AGAIN_MS = 500;

/** How long messages under way may take after the signal to stop. */
const FINISH_MS = 2_000;

interface DeliverDeps {
  database: DataSource;
  listener: Listener;
  /** A name that no other living worker has. */
  workerName: string;
  senders: Partial<Record<SubscriptionKind, Sender>>;
  metrics: Pick<Metrics, 'delivered'>;
  log: Logger;
}

/** Begins to deliver. @returns a function that stops it */
export function startDelivery(deps: DeliverDeps): () => Promise<void> {
  const { database, listener, workerName, senders, log } = deps;
  const kinds = Object.keys(senders) as SubscriptionKind[];
  const stopping = new AbortController();
  const cutting = new AbortController();
  const underWay = new Map<Claim, Promise<void>>();
  let looking: Promise<void> | undefined;
  let again = false;
  let grown = true;

  function countBusy(): { busy: Map<string, number>; slow: number } {
    const busy = new Map<string, number>();
    let slow = 0;
    for (const { subscription, isSlow } of underWay.keys()) {
      busy.set(subscription.id, (busy.get(subscription.id) ?? 0) + 1);
      if (isSlow) slow++;
    }
    return { busy, slow };
  }

  async function claimAndSend(): Promise<void> {
    const { busy, slow } = countBusy();
    const places = { quick: QUICK_PLACES - (underWay.size - slow), slow: SLOW_PLACES - slow };
    if (places.quick + places.slow === 0) return;
    for (const claim of await claimDeliveries(database, { worker: workerName, kinds, busy, ...places })) {
      const sending = deliver(deps, claim, cutting.signal).finally(() => {
        underWay.delete(claim);
        look();
      });
      underWay.set(claim, sending);
    }
  }

  async function lookOnce(): Promise<void> {
    try {
      if (grown) {
        grown = false;
        await fanOut(database);
        await fanOutReplays(database);
      }
      if (!stopping.signal.aborted) await claimAndSend();
    } catch (error) {
      grown = true;
      log.warn({ err: error }, 'deliveries');
    }
  }

  function look(): void {
    if (stopping.signal.aborted) return;
    if (looking) {
      again = true;
      return;
    }
    looking = lookOnce().finally(() => {
      looking = undefined;
      if (!again) return;
      again = false;
      look();
    });
  }
  function lookAtLog(): void {
    grown = true;
    look();
  }

  const ignore = (error: unknown) => log.debug({ err: error }, 'deliveries');
  // After a broken connection the listener repeats LISTEN by itself.
  listener.subscribe(GROWN, lookAtLog).catch(ignore);
  listener.subscribe(DELIVERIES_WANTED, lookAtLog).catch(ignore);
  const timer = setInterval(lookAtLog, LOOK_EVERY_MS);
  looking = releaseClaimsOf(database, workerName)
    .then(() => {}, ignore)
    .finally(() => {
      looking = undefined;
      look();
    });
  return async () => {
    clearInterval(timer);
    stopping.abort();
    await looking;
    const finished = Promise.all(underWay.values());
    await Promise.race([finished, pause(FINISH_MS, undefined, { ref: false })]);
    cutting.abort();
    await finished;
  };
}

/** Sends one delivery and records what came of it. */
async function deliver(deps: DeliverDeps, claim: Claim, signal: AbortSignal): Promise<void> {
  const { database, senders, log } = deps;
  const giveUpAt = Date.now() + CLAIM_SECONDS * 1000;
  const sender = senders[claim.subscription.kind];
  const sent = sender && (await sender.send(claim, signal));
  for (;;) {
    try {
      if (!sender || !sent || (signal.aborted && sent.status === null)) await releaseClaim(database, claim);
      else await record(deps, claim, sent, sender.retrySeconds);
      return;
    } catch (error) {
      log.warn({ err: error, deliveryId: claim.id }, 'the outcome of a delivery is not recorded');
      // When the claim is over, the delivery is sent again, with the same id.
      if (signal.aborted || Date.now() + RECORD_AGAIN_MS >= giveUpAt) return;
      await pause(RECORD_AGAIN_MS);
    }
  }
}

async function record(
  { database, metrics, log }: DeliverDeps,
  claim: Claim,
  sent: Sent,
  retrySeconds: readonly number[],
): Promise<void> {
  const { id, subscription, failures } = claim;
  if (sent.isDelivered) {
    await recordDelivered(database, claim, sent);
    metrics.delivered(subscription.kind, 'delivered', sent.durationMs);
    return;
  }
  const { status, error } = sent;
  log.info({ deliveryId: id, webhookId: subscription.id, status, error }, 'a delivery has failed');
  const seconds = retrySeconds[failures];
  const isOver = sent.isGone && subscription.kind === 'webhook';
  if (!isOver && seconds !== undefined) {
    await recordFailed(database, claim, sent, delayOf(seconds, sent.retryAfter));
    metrics.delivered(subscription.kind, 'retried', sent.durationMs);
    return;
  }
  const isDisabled = await (isOver ? recordGone : recordGivenUp)(database, claim, sent);
  metrics.delivered(subscription.kind, 'failed', sent.durationMs);
  if (isDisabled) log.warn({ webhookId: subscription.id }, 'a webhook is disabled: its receiver fails');
}

/** Spreads repetitions by up to a fifth in both directions, and waits longer if the receiver wants that. */
function delayOf(seconds: number, retryAfter = 0): number {
  return Math.max(seconds * (0.8 + 0.4 * Math.random()), Math.min(retryAfter, LONGEST_DELAY));
}
