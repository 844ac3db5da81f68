import { deleteUnreferencedBlobs } from '../core/blobs.js';
import { AppError } from '../core/errors.js';
import { formatHead, readHead, sequenceEvents } from '../core/events.js';
import type { Logger } from '../core/log.js';
import { listTrashBeyondQuota } from '../core/quota.js';
import { discardUploads, expireUploads, listUnfinishedComplete } from '../core/uploads/cleanup.js';
import { type FinishDeps, finishAndQueue } from '../core/uploads/finish.js';
import type { Leases } from '../core/uploads/lease.js';
import { completeUpload } from '../core/uploads/ledger.js';
import { terminateUpload } from '../core/uploads/termination.js';
import { createRelay } from './relay.js';

const EVERY_MS = 30_000;

const TELL_HEAD_EVERY_MS = 3_600_000;

/** By then the servers, too, can reach a queue that was away: what they could not add meanwhile is not added by them. */
const ONCE_MORE_MS = 3_000;

export interface ReconcileDeps extends FinishDeps {
  leases: Leases;
}

/** A store that refused so many in a row is asked again at the next pass. */
const MAX_FAILURES = 3;

/**
 * Puts right what crashes have left half done, now, every 30 s, and when the queue is back after it was away. Safe to
 * run in every worker at once.
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
    'files purged from a trash that is too full': () => trimTrash(deps),
    'blobs deleted': () => deleteUnreferencedBlobs(deps),
    'events numbered': createNumbering(deps),
  }).map(([name, work]) => createPart(name, work, deps.log));
  const runAll = () => {
    for (const part of parts) part.run();
  };
  const runAnew = () => {
    for (const part of parts) part.runAnew();
  };
  runAll();
  const timer = setInterval(runAll, EVERY_MS);
  deps.queue.onBack?.(() => {
    runAnew();
    setTimeout(runAnew, ONCE_MORE_MS).unref();
  });
  return async () => {
    clearInterval(timer);
    await Promise.all(parts.map((part) => part.stop()));
  };
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
 * have been in the logs too. See core/audit.ts.
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

/** Uploads whose bytes are all here but whose object or file was never made. One that fails is left to the next pass. */
async function finishUploads(deps: ReconcileDeps): Promise<number> {
  let finished = 0;
  let failures = 0;
  for (const id of await listUnfinishedComplete(deps.database)) {
    try {
      if (!(await complete(deps, id))) continue;
      await finishAndQueue(deps, id);
      finished++;
      failures = 0;
    } catch (error) {
      if (error instanceof AppError && error.code === 'gone') continue;
      deps.log.error({ err: error, uploadId: id }, 'reconciler: upload not finished');
      if (++failures === MAX_FAILURES) break;
    }
  }
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

/** What lies in the trash does not count against the quota of its owner, and so must not grow without end. */
async function trimTrash(deps: ReconcileDeps): Promise<number> {
  const ids = await listTrashBeyondQuota(deps.database, deps.quota);
  for (const id of ids) {
    await terminateUpload(deps, id).catch((error: unknown) => {
      // Its owner, or another worker, was first.
      if (!(error instanceof AppError && error.code === 'gone')) throw error;
    });
  }
  return ids.length;
}
