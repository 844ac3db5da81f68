import type { DataSource } from 'typeorm';
import type { File } from '../core/database/entities/file.js';
import { AppError } from '../core/errors.js';
import { listUnfinished } from '../core/file-queries.js';
import { failFile, raiseRun } from '../core/files.js';
import type { ProcessingQueue } from '../core/queue.js';

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
    for (const file of files) {
      if (await relayJob(deps, file)) added++;
    }
    after = files.at(-1)?.id;
    if (files.length < BATCH) return added;
  }
}

async function relayJob({ database, queue }: RelayDeps, file: File): Promise<boolean> {
  const job = { fileId: file.id, run: file.run };
  switch (await queue.getState(job)) {
    case 'open':
      return false;
    case 'missing':
      await queue.add(job);
      return true;
    case 'failed':
      // The worker died with this job too often, or before it could write down why.
      await failFile(database, file, {
        step: file.step ?? 'start',
        code: 'internal',
        detail: 'The processing was interrupted too often',
      }).catch(ignoreMovedOn);
      return false;
    case 'completed': {
      // A completed id would be ignored if it were added again.
      const run = await raiseRun(database, file);
      if (run === undefined) return false;
      await queue.add({ ...job, run });
      return true;
    }
  }
}

/** The file came to its end, or was deleted, after it was listed. */
function ignoreMovedOn(error: unknown): void {
  if (!(error instanceof AppError && ['wrong_state', 'not_found'].includes(error.code))) throw error;
}
