import type { Listener } from '../../core/database/listen.js';
import { AppError } from '../../core/errors.js';
import { formatHead, readHead, sequenceEvents } from '../../core/events/sequence.js';
import { deleteUnreferencedBlobs } from '../../core/files/blobs.js';
import type { Logger } from '../../core/log.js';
import { putOff } from '../../core/retries.js';
import { isStoreAway } from '../../core/storage/storage.js';
import { discardUploads, expireUploads, listUnfinishedComplete } from '../../core/uploads/discard.js';
import { type FinishDeps, finishAndQueue } from '../../core/uploads/finish.js';
import type { Leases } from '../../core/uploads/lease.js';
import { completeUpload } from '../../core/uploads/ledger.js';
import { joinLeadership, type Leader } from './leader.js';
import { createRelay } from './relay.js';
import { createTrim } from './trash.js';

const EVERY_MS = 30_000;

const TELL_HEAD_EVERY_MS = 3_600_000;

/** By then the servers, too, can reach a queue that was away: what they could not add meanwhile is not added by them. */
const ONCE_MORE_MS = 3_000;

/** Channel of PostgreSQL on which the leader is asked for a pass. */
const PASS_WANTED = 'pass_wanted';

export interface ReconcileDeps extends FinishDeps {
  leases: Leases;
  listener: Listener;
  /** A name that no other living worker has. */
  workerName: string;
}

/** A store that leaves so many in a row without an answer is asked again at the next pass. */
const MAX_FAILURES = 3;

/**
 * Puts right what crashes have left half done: in the worker that leads, when it begins to, every 30 s, when another
 * worker starts, and when the queue is back after it was away. Safe to run in several workers at once.
 * @returns stops it, after what is under way
 */
export function startReconciler(deps: ReconcileDeps): () => Promise<void> {
  const parts = Object.entries({
    'uploads finished': () => finishUploads(deps),
    'jobs queued': createRelay(deps),
    'uploads discarded': async () => {
      await expireUploads(deps.database);
      return discardUploads(deps);
    },
    'files purged from a trash that is too full': createTrim(deps),
    'blobs deleted': () => deleteUnreferencedBlobs(deps),
    'events numbered': createNumbering(deps),
  }).map(([name, work]) => createPart(name, work, deps.log));
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
  return async () => {
    clearInterval(timer);
    // No part begins any more when this worker is elected at this very moment.
    await Promise.all([...parts.map((part) => part.stop()), leader.close()]);
  };
}

/** A worker that starts asks the one that leads for a pass: whatever was the matter, somebody expects it to go on now. */
function askAtStart({ database, listener, log }: ReconcileDeps, leader: Leader, pass: () => void): void {
  const ignore = (error: unknown) => log.debug({ err: error }, 'asking for a pass');
  // Where a connection breaks, the listener says LISTEN once more by itself.
  listener.subscribe(PASS_WANTED, pass).catch(ignore);
  leader.tried
    .then(async () => {
      if (!leader.leads()) await database.query(`NOTIFY ${PASS_WANTED}`);
    })
    .catch(ignore);
}

/** One of them, on its own: a store that hangs must not keep the jobs waiting. What fails is logged. */
function createPart(name: string, work: () => Promise<number>, log: Logger) {
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;

  async function once(): Promise<void> {
    try {
      const count = await work();
      if (count > 0) log.info({ count }, name);
    } catch (error) {
      log.error({ err: error }, `reconciler: ${name}`);
    }
  }
  function run(): void {
    if (stopped) return;
    // A run that takes longer than the interval is not followed by a queue of others.
    running ??= once().finally(() => {
      running = undefined;
      if (!again) return;
      again = false;
      run();
    });
  }
  return {
    run,
    /** Runs it even if it is just running: what it looks for may have come behind its back. */
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
 * Numbers events, and tells the log now and then where theirs ends: somebody who has written the event log anew cannot
 * have been in the logs too. See core/events/verify.ts.
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
 * Uploads whose bytes are all here but whose object or file was never made. One for which the store refuses to make the
 * object is put off.
 */
async function finishUploads(deps: ReconcileDeps): Promise<number> {
  let finished = 0;
  let unanswered = 0;
  let refused = 0;
  for (const id of await listUnfinishedComplete(deps.database)) {
    try {
      if (!(await complete(deps, id))) continue;
      await finishAndQueue(deps, id);
      finished++;
      unanswered = 0;
    } catch (error) {
      if (error instanceof AppError && error.code === 'gone') continue;
      const away = isStoreAway(error);
      const failures = away ? undefined : await putOff(deps.database, 'uploads', id);
      deps.log.error({ err: error, uploadId: id, failures }, 'reconciler: upload not finished');
      if (!away) refused++;
      else if (++unanswered === MAX_FAILURES) break;
    }
  }
  if (refused > 0) deps.log.warn({ count: refused }, 'uploads that have all their bytes and become no files');
  return finished;
}

/** Makes the object, unless a request is just doing that. */
async function complete(deps: ReconcileDeps, id: string): Promise<boolean> {
  const lease = await deps.leases.tryAcquire(id);
  if (!lease) return false;
  try {
    await completeUpload(deps, lease.upload, lease.epoch);
    return true;
  } finally {
    await lease.release();
  }
}
