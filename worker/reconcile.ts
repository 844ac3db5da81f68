import { deleteUnreferencedBlobs } from '../core/blobs.js';
import { AppError } from '../core/errors.js';
import { sequenceEvents } from '../core/events.js';
import type { Logger } from '../core/log.js';
import type { ProcessingQueue } from '../core/queue.js';
import { discardUploads, expireUploads, listUnfinishedComplete } from '../core/uploads/cleanup.js';
import { finishUpload, type LedgerDeps } from '../core/uploads/ledger.js';
import { relayJobs } from './relay.js';

const EVERY_MS = 30_000;

export interface ReconcileDeps extends LedgerDeps {
  queue: ProcessingQueue;
  log: Logger;
}

/**
 * Puts right what crashes have left half done, now and every 30 s. Safe to run in every worker at once.
 * @returns stops it, after the pass that is under way
 */
export function startReconciler(deps: ReconcileDeps): () => Promise<void> {
  let running: Promise<void> | undefined;
  const run = () => {
    // A pass that takes longer than the interval is not followed by a queue of others.
    running ??= reconcile(deps).finally(() => {
      running = undefined;
    });
  };
  run();
  const timer = setInterval(run, EVERY_MS);
  return async () => {
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

/** Uploads whose bytes are all here but whose file was never written. One that fails is left to the next pass. */
async function finishUploads(deps: ReconcileDeps): Promise<number> {
  let finished = 0;
  for (const id of await listUnfinishedComplete(deps.database)) {
    try {
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
