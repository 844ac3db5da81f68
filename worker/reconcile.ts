import { deleteUnreferencedBlobs } from '../core/blobs.js';
import { AppError } from '../core/errors.js';
import { sequenceEvents } from '../core/events.js';
import type { Logger } from '../core/log.js';
import type { ProcessingQueue } from '../core/queue.js';
import { discardUploads, expireUploads, listUnfinishedComplete } from '../core/uploads/cleanup.js';
import type { Leases } from '../core/uploads/lease.js';
import { completeUpload, finishUpload, type LedgerDeps } from '../core/uploads/ledger.js';
import { relayJobs } from './relay.js';

const EVERY_MS = 30_000;

/** By then the servers, too, can reach a queue that was away: what they could not add meanwhile is not added by them. */
const ONCE_MORE_MS = 3_000;

export interface ReconcileDeps extends LedgerDeps {
  leases: Leases;
  queue: ProcessingQueue;
  log: Logger;
}

/**
 * Puts right what crashes have left half done, now, every 30 s, and when the queue is back after it was away. Safe to
 * run in every worker at once.
 * @returns stops it, after the pass that is under way
 */
export function startReconciler(deps: ReconcileDeps): () => Promise<void> {
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;
  const run = () => {
    if (stopped) return;
    // A pass that takes longer than the interval is not followed by a queue of others.
    running ??= reconcile(deps).finally(() => {
      running = undefined;
      if (!again) return;
      again = false;
      run();
    });
  };
  const runAnew = () => {
    if (running) again = true;
    else run();
  };
  run();
  const timer = setInterval(run, EVERY_MS);
  deps.queue.onBack?.(() => {
    runAnew();
    setTimeout(runAnew, ONCE_MORE_MS).unref();
  });
  return async () => {
    stopped = true;
    clearInterval(timer);
    await running;
  };
}

/** One pass. A part that fails is logged and does not keep the others from running. */
async function reconcile(deps: ReconcileDeps): Promise<void> {
  const parts: [name: string, run: () => Promise<number>][] = [
    ['uploads finished', () => finishUploads(deps)],
    ['jobs queued', () => relayJobs(deps)],
    ['uploads expired', () => expireUploads(deps.database)],
    ['uploads discarded', () => discardUploads(deps)],
    ['blobs deleted', () => deleteUnreferencedBlobs(deps)],
    ['events numbered', () => sequenceEvents(deps.database)],
  ];
  for (const [name, run] of parts) {
    try {
      const count = await run();
      if (count > 0) deps.log.info({ count }, name);
    } catch (error) {
      deps.log.error({ err: error }, `reconciler: ${name}`);
    }
  }
}

/** Uploads whose bytes are all here but whose object or file was never made. One that fails is left to the next pass. */
async function finishUploads(deps: ReconcileDeps): Promise<number> {
  let finished = 0;
  for (const id of await listUnfinishedComplete(deps.database)) {
    try {
      if (!(await complete(deps, id))) continue;
      const file = await finishUpload(deps, id);
      finished++;
      await deps.queue.add({ fileId: file.id, run: file.run });
    } catch (error) {
      const terminated = error instanceof AppError && error.code === 'gone';
      if (!terminated) deps.log.error({ err: error, uploadId: id }, 'reconciler: upload not finished');
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
