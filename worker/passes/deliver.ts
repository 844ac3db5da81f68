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
  releaseClaim,
  releaseClaimsOf,
  type SubscriptionKind,
} from '../../core/webhooks/claims.js';
import { DELIVERIES_WANTED } from '../../core/webhooks/deliveries.js';
import { fanOut, fanOutReplays } from '../../core/webhooks/fan-out.js';
import {
  recordDelivered,
  recordFailed,
  recordGivenUp,
  recordGone,
  SLOW_MS,
} from '../../core/webhooks/outcomes.js';
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
 * many there are, take no place from quick ones: an attempt that takes long leaves its quick place, up to a limit of
 * all attempts.
 */
const QUICK_PLACES = 32;
const SLOW_PLACES = 32;
const ALL_PLACES = 128;

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

type UnderWay = Map<Claim, { sending: Promise<void>; since: number }>;

/** Begins to deliver. @returns a function that stops it */
export function startDelivery(deps: DeliverDeps): () => Promise<void> {
  const { database, listener, workerName, senders, log } = deps;
  const kinds = Object.keys(senders) as SubscriptionKind[];
  const cutting = new AbortController();
  const underWay: UnderWay = new Map();
  /** Whether there may be events that are not fanned out. */
  let grown = true;

  const looking = runOneByOne(async () => {
    try {
      if (grown) {
        grown = false;
        await fanOut(database);
        await fanOutReplays(database);
      }
      const claims = await claimDeliveries(database, { worker: workerName, kinds, ...placesFor(underWay) });
      for (const claim of claims) {
        const sending = deliver(deps, claim, cutting.signal).finally(() => {
          underWay.delete(claim);
          looking.run();
        });
        underWay.set(claim, { sending, since: Date.now() });
      }
    } catch (error) {
      grown = true;
      log.warn({ err: error }, 'deliveries');
    }
  });
  const lookAtLog = () => {
    grown = true;
    looking.run();
  };

  const ignore = (error: unknown) => log.debug({ err: error }, 'deliveries');
  // After a broken connection the listener repeats LISTEN by itself.
  listener
    .subscribe(GROWN, lookAtLog)
    .then(() => listener.subscribe(DELIVERIES_WANTED, lookAtLog))
    .catch(ignore);
  const timer = setInterval(lookAtLog, LOOK_EVERY_MS);
  releaseClaimsOf(database, workerName).catch(ignore).finally(looking.run);
  return async () => {
    clearInterval(timer);
    await looking.stop();
    const finished = Promise.all([...underWay.values()].map(({ sending }) => sending));
    await Promise.race([finished, pause(FINISH_MS, undefined, { ref: false })]);
    cutting.abort();
    await finished;
  };
}

/** How many deliveries may be claimed, and how many are under way to which subscription. */
function placesFor(underWay: UnderWay): { busy: Map<string, number>; quick: number; slow: number } {
  const busy = new Map<string, number>();
  let slow = 0;
  for (const [{ subscription, isSlow }, { since }] of underWay) {
    busy.set(subscription.id, (busy.get(subscription.id) ?? 0) + 1);
    if (isSlow || Date.now() - since > SLOW_MS) slow++;
  }
  const free = ALL_PLACES - underWay.size;
  return {
    busy,
    quick: Math.max(0, Math.min(free, QUICK_PLACES - (underWay.size - slow))),
    slow: Math.max(0, Math.min(free, SLOW_PLACES - slow)),
  };
}

/** Runs work that does not throw, one run at a time. A call during a run leads to one more run. */
function runOneByOne(work: () => Promise<void>): { run(): void; stop(): Promise<void> } {
  let running: Promise<void> | undefined;
  let again = false;
  let isStopped = false;
  function run(): void {
    if (isStopped) return;
    if (running) {
      again = true;
      return;
    }
    running = work().finally(() => {
      running = undefined;
      if (!again) return;
      again = false;
      run();
    });
  }
  return {
    run,
    async stop() {
      isStopped = true;
      await running;
    },
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
