import type { DataSource } from 'typeorm';
import type { File } from '../core/database/entities/file.js';
import { AppError } from '../core/errors.js';
import { listUnfinished } from '../core/file-queries.js';
import { failFile, raiseRun } from '../core/files.js';
import type { ProcessingJob, ProcessingQueue } from '../core/queue.js';

/** How many jobs are asked after, and added, at once. */
const BATCH = 500;

interface RelayDeps {
  database: DataSource;
  queue: ProcessingQueue;
}

/**
 * Gives every unfinished file the job that it should have: one that was never added because a process died after
 * the commit, or that the queue has lost. Adding is harmless where the job is there.
 * @returns how many jobs were added
 */
export async function relayJobs(deps: RelayDeps): Promise<number> {
  let added = 0;
  let after: string | undefined;
  for (;;) {
    const files = await listUnfinished(deps.database, after, BATCH);
    const missing = (await Promise.all(files.map((file) => findMissing(deps, file)))).filter((job) => !!job);
    if (missing.length > 0) await deps.queue.add(...missing);
    added += missing.length;
    after = files.at(-1)?.id;
    if (files.length < BATCH) return added;
  }
}

/** The job that this file should have and has not. */
async function findMissing({ database, queue }: RelayDeps, file: File): Promise<ProcessingJob | undefined> {
  const job = { fileId: file.id, run: file.run };
  switch (await queue.getState(job)) {
    case 'open':
      return undefined;
    case 'missing':
      return job;
    case 'failed':
      // The worker died with this job too often, or before it could write down why.
      await failFile(database, file, {
        step: file.step ?? 'start',
        code: 'internal',
        detail: 'The processing was interrupted too often',
      }).catch(ignoreMovedOn);
      return undefined;
    case 'completed': {
      // A completed id would be ignored if it were added again.
      const run = await raiseRun(database, file);
      return run === undefined ? undefined : { ...job, run };
    }
  }
}

/** The file came to its end, or was deleted, after it was listed. */
function ignoreMovedOn(error: unknown): void {
  if (!(error instanceof AppError && ['wrong_state', 'not_found'].includes(error.code))) throw error;
}
