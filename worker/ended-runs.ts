import type { DataSource } from 'typeorm';
import type { Listener } from '../core/database/listen.js';
import { findEndedRuns, watchEndedRuns } from '../core/files/attempt.js';
import type { Logger } from '../core/log.js';
import type { ProcessingWorker } from '../core/queue/worker.js';

/** How often the worker looks for itself, because a notification can be lost. */
const LOOK_EVERY_MS = 5_000;

/**
 * Stops running jobs whose files were deleted, canceled or paused, by any process.
 * @returns a function that ends this
 */
export async function stopEndedRuns(deps: {
  database: DataSource;
  listener: Listener;
  worker: Pick<ProcessingWorker, 'running' | 'stop'>;
  log: Logger;
}): Promise<() => void> {
  const { database, listener, worker, log } = deps;
  await watchEndedRuns(listener, (run) => worker.stop(run));

  async function look(): Promise<void> {
    const running = worker.running();
    if (running.length === 0) return;
    for (const run of await findEndedRuns(database, running)) worker.stop(run);
  }

  const timer = setInterval(() => {
    look().catch((error: unknown) => log.debug({ err: error }, 'ended runs could not be looked up'));
  }, LOOK_EVERY_MS);
  return () => clearInterval(timer);
}
