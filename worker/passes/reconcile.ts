import type { Listener } from '../../core/database/listen.js';
import { execute } from '../../core/database/rows.js';
import { formatHead, GROWN, readHead, sequenceEvents } from '../../core/events/sequence.js';
import { deleteUnreferencedBlobs } from '../../core/files/blobs.js';
import type { PurgeRule } from '../../core/files/overdue.js';
import { quarantineInfected } from '../../core/files/quarantine.js';
import { RESCAN_WANTED } from '../../core/files/rescans.js';
import { addChanges } from '../../core/files/totals.js';
import { forgetOldKeys } from '../../core/keyed-requests.js';
import type { Logger } from '../../core/log.js';
import { putOff } from '../../core/retries.js';
import { isStoreAway } from '../../core/storage/storage.js';
import { type ConcatenateDeps, conclude } from '../../core/uploads/concatenate.js';
import { discardUploads, listUnfinishedComplete } from '../../core/uploads/discard.js';
import { UploadEnded } from '../../core/uploads/errors.js';
import { expireUploads } from '../../core/uploads/expire.js';
import { HookSilent, UploadRefused } from '../../core/uploads/hooks.js';
import { forgetDeliveries } from '../../core/webhooks/deliveries.js';
import { joinLeadership, type Leader } from './leader.js';
import type { Publisher } from './publish.js';
import { createTrim, purgeAllOverdue } from './purge.js';
import { createRelay } from './relay.js';

const EVERY_MS = 30_000;

const TELL_HEAD_EVERY_MS = 3_600_000;

/** By then servers can reach the queue again too. They do not retry jobs that they failed to add. */
const ONCE_MORE_MS = 3_000;

/** Channel of PostgreSQL on which a worker asks the leader for a pass. */
const PASS_WANTED = 'pass_wanted';

export interface ReconcileDeps extends ConcatenateDeps {
  listener: Listener;
  /** A name that no other living worker has. */
  workerName: string;
  /** Days for which files stay in the trash; 0: no limit. */
  trashDays: number;
  /** Hours for which files are kept at all; 0: no limit. */
  fileRetentionHours: number;
  /** Make passes that may take long, and end when the signal aborts. `createScrub` is undefined if it is not wanted. */
  createRescans: (signal: AbortSignal) => () => Promise<number>;
  createScrub: ((signal: AbortSignal) => () => Promise<number>) | undefined;
  /** How many jobs all workers together run at a time; undefined: no limit. */
  globalConcurrency: number | undefined;
  /** Undefined: events are published nowhere. */
  publisher: Publisher | undefined;
}

/** A store or a hook that leaves this many requests in a row unanswered is asked again at the next pass. */
const MAX_FAILURES = 3;

/**
 * Repairs what crashes have left half done. The leading worker runs the passes when it becomes the leader,
 * every 30 s, when another worker starts, and when the queue returns after an outage. It is safe to run in
 * several workers at once.
 * @returns a function that stops it after the current work
 */
export function startReconciler(deps: ReconcileDeps): () => Promise<void> {
  const stopping = new AbortController();
  const parts = Object.entries({
    'uploads finished': () => finishUploads(deps),
    'jobs queued': createRelay(deps),
    // A queue that was lost does not know its limit any more.
    'limits of the queue changed': () =>
      deps.queue.controls.limitRunning(deps.globalConcurrency).then(() => 0),
    'uploads discarded': async () => {
      await expireUploads(deps.database);
      return discardUploads(deps);
    },
    'files purged from a trash that is too full': createTrim(deps),
    ...overdueParts(deps),
    'deliveries forgotten': () => forgetDeliveries(deps.database),
    'requests with a key forgotten': () => forgetOldKeys(deps.database),
    'infected blobs moved into quarantine': () => quarantineInfected(deps),
    'blobs deleted': () => deleteUnreferencedBlobs(deps),
    'events numbered': createNumbering(deps),
    'changes of files added to the sums': () => addChanges(deps.database),
  }).map(([name, work]) => createPart(name, work, deps.log));
  const publishing = deps.publisher && createPart('events published', deps.publisher.publishNew, deps.log);
  if (publishing) parts.push(publishing);
  const rescans = createPart('files scanned again', deps.createRescans(stopping.signal), deps.log);
  parts.push(rescans);
  if (deps.createScrub) {
    parts.push(createPart('stored contents read back', deps.createScrub(stopping.signal), deps.log));
  }
  const runAll = () => {
    for (const part of parts) part.run();
  };
  const runAnew = () => {
    for (const part of parts) part.runAnew();
  };
  const leader = joinLeadership(deps, deps.workerName, runAll);
  const ifLeading = (work: () => void) => () => {
    if (leader.leads()) work();
  };
  const timer = setInterval(ifLeading(runAll), EVERY_MS);
  deps.queue.onBack?.(() => {
    ifLeading(runAnew)();
    setTimeout(ifLeading(runAnew), ONCE_MORE_MS).unref();
  });
  askAtStart(deps, leader, ifLeading(runAnew));
  if (publishing) wakePublishing(deps, ifLeading(publishing.runAnew));
  wake(deps, RESCAN_WANTED, ifLeading(rescans.runAnew));
  return async () => {
    clearInterval(timer);
    stopping.abort();
    // A part that has stopped does not begin again, even if this worker is elected right now.
    await Promise.all([...parts.map((part) => part.stop()), leader.close()]);
  };
}

/** The parts that delete files because of their age, as far as the configuration asks for them. */
function overdueParts(deps: ReconcileDeps): Record<string, () => Promise<number>> {
  const rules: Record<string, PurgeRule> = {
    'files purged that were in the trash for too long': {
      since: 'deleted_at',
      hours: deps.trashDays * 24,
      reason: 'trash_period',
    },
    'files purged that are kept no longer': {
      since: 'created_at',
      hours: deps.fileRetentionHours,
      reason: 'retention',
    },
  };
  const set = Object.entries(rules).filter(([, { hours }]) => hours > 0);
  return Object.fromEntries(set.map(([name, rule]) => [name, () => purgeAllOverdue(deps, rule)]));
}

/** A starting worker asks the leader for a pass, because its operator expects stalled work to continue. */
function askAtStart({ database, listener, log }: ReconcileDeps, leader: Leader, pass: () => void): void {
  const ignore = (error: unknown) => log.debug({ err: error }, 'asking for a pass');
  // After a broken connection the listener repeats LISTEN by itself.
  listener.subscribe(PASS_WANTED, pass).catch(ignore);
  leader.tried
    .then(async () => {
      if (!leader.leads()) await execute(database, `NOTIFY ${PASS_WANTED}`);
    })
    .catch(ignore);
}

/** Publishes as soon as there are new events, or a connection again. */
function wakePublishing({ listener, publisher, log }: ReconcileDeps, publish: () => void): void {
  publisher?.onBack(publish);
  wake({ listener, log }, GROWN, publish);
}

/** Does `work` at each notification on a channel. After a broken connection the listener repeats LISTEN by itself. */
function wake(
  { listener, log }: Pick<ReconcileDeps, 'listener' | 'log'>,
  channel: string,
  work: () => void,
): void {
  listener
    .subscribe(channel, work)
    .catch((error: unknown) => log.debug({ err: error, channel }, 'listening'));
}

/**
 * Creates one part. Parts run independently: a store that hangs must not delay the jobs. Failures are logged.
 */
function createPart(name: string, work: () => Promise<number>, log: Logger) {
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;

  async function once(): Promise<void> {
    try {
      const count = await work();
      if (count > 0) log.info({ count }, name);
    } catch (error) {
      if (stopped) return;
      log.error({ err: error }, `reconciler: ${name}`);
    }
  }
  function run(): void {
    if (stopped) return;
    // A run that takes longer than the interval must not build up a queue of further runs.
    running ??= once().finally(() => {
      running = undefined;
      if (!again) return;
      again = false;
      run();
    });
  }
  return {
    run,
    /** Runs the part again even if it is running: the current run may have missed the newest work. */
    runAnew(): void {
      if (running) again = true;
      else run();
    },
    async stop(): Promise<void> {
      stopped = true;
      await running;
    },
  };
}

/**
 * Numbers events, and at intervals logs the head of the event log. An attacker who rewrites the event log
 * cannot also have changed the process logs. See core/events/verify.ts.
 */
function createNumbering({ database, log }: ReconcileDeps): () => Promise<number> {
  let tellAt = 0;
  return async () => {
    const numbered = await sequenceEvents(database);
    if (Date.now() >= tellAt) {
      log.info({ head: formatHead(await readHead(database)) }, 'head of the event log');
      tellAt = Date.now() + TELL_HEAD_EVERY_MS;
    }
    return numbered;
  };
}

/**
 * Finishes uploads whose bytes have all arrived but whose object, blob or file was never made. An upload whose
 * object the store refuses to make is postponed.
 */
async function finishUploads(deps: ReconcileDeps): Promise<number> {
  let finished = 0;
  let unanswered = 0;
  let refused = 0;
  for (const id of await listUnfinishedComplete(deps.database)) {
    const lease = await deps.leases.tryAcquire(id);
    if (!lease) continue;
    try {
      await conclude(deps, lease);
      finished++;
      unanswered = 0;
    } catch (error) {
      // Another process, or a hook, has ended it.
      if (error instanceof UploadEnded || error instanceof UploadRefused) continue;
      const away = isStoreAway(error);
      // A hook may be silent about this upload only. So the upload is put off, and others are tried, but not too many.
      const silent = error instanceof HookSilent;
      const failures = away ? undefined : await putOff(deps.database, 'uploads', id);
      deps.log.error({ err: error, uploadId: id, failures }, 'reconciler: upload not finished');
      if (!away && !silent) refused++;
      else if (++unanswered === MAX_FAILURES) break;
    } finally {
      await lease.release();
    }
  }
  if (refused > 0) deps.log.warn({ count: refused }, 'uploads that have all their bytes and become no files');
  return finished;
}
