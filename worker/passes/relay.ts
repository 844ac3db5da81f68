import type { DataSource } from 'typeorm';
import { forEachOf } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import { countUnfinished, getFile, listUnfinished, type UnfinishedFile } from '../../core/files/queries.js';
import { failFile, raiseRun } from '../../core/files/status.js';
import type { ProcessingJob, ProcessingQueue } from '../../core/queue/queue.js';

/** How many files are read, and how many jobs are added, at once. */
const BATCH = 500;

/** How many jobs are asked after at a time. */
const QUESTIONS = 20;

/** Adding a job takes less: a file of this age without a job will not get one by itself. */
const ADDED_AFTER_MS = 5_000;

/** However the numbers look, each file is looked at so often. */
const LOOK_AT_ALL_EVERY_MS = 3_600_000;

/** Servers may lose some more jobs in the first moments after the queue is back. */
const AFTER_RETURN_MS = 10_000;

interface RelayDeps {
  database: DataSource;
  queue: ProcessingQueue;
}

/**
 * Gives files the jobs that they should have, see relayJobs. A pass asks for two numbers, and looks at each file only if
 * there are fewer jobs than files: a backlog of a million files, all with their jobs, costs next to nothing. Jobs of
 * files that were deleted may hide that some are missing. So all files are looked at in the first pass, when a queue that
 * may lose jobs is back, and once an hour, too.
 * @returns a pass; it returns how many jobs were added
 */
export function createRelay(deps: RelayDeps): () => Promise<number> {
  let lookAtAllAt = 0;
  let lookAtAllUntil = 0;
  deps.queue.onBack?.(() => {
    lookAtAllUntil = Date.now() + AFTER_RETURN_MS;
  });

  async function isJobMissing(): Promise<boolean> {
    // In this order: a job that ends in between is counted here, and its file may not be.
    const jobs = await deps.queue.countOpen();
    return jobs < (await countUnfinished(deps.database, ADDED_AFTER_MS));
  }

  return async () => {
    const now = Date.now();
    const isDue = now >= lookAtAllAt || now < lookAtAllUntil;
    if (!isDue && !(await isJobMissing())) return 0;
    const added = await relayJobs(deps);
    lookAtAllAt = now + LOOK_AT_ALL_EVERY_MS;
    return added;
  };
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
    const missing: ProcessingJob[] = [];
    await forEachOf(files, QUESTIONS, async (file) => {
      const job = await findMissing(deps, file);
      if (job) missing.push(job);
    });
    if (missing.length > 0) await deps.queue.add(...missing);
    added += missing.length;
    after = files.at(-1)?.id;
    if (files.length < BATCH) return added;
  }
}

/** The job that this file should have and has not. */
async function findMissing(
  { database, queue }: RelayDeps,
  { id, run }: UnfinishedFile,
): Promise<ProcessingJob | undefined> {
  const job = { fileId: id, run };
  switch (await queue.getState(job)) {
    case 'open':
      return undefined;
    case 'missing':
      return job;
    case 'failed':
      // An attempt writes down why it failed before its job fails; the last one of this job could not.
      await failUnfinished(database, job).catch(ignoreMovedOn);
      return undefined;
    case 'completed': {
      // A completed id would be ignored if it were added again.
      const raised = await raiseRun(database, { id, run });
      return raised === undefined ? undefined : { ...job, run: raised };
    }
  }
}

async function failUnfinished(database: DataSource, { fileId, run }: ProcessingJob): Promise<void> {
  const file = await getFile(database, fileId, { trashed: true });
  if (file.run !== run) return;
  await failFile(database, file, {
    step: file.step ?? 'start',
    code: 'internal',
    detail: 'The processing was interrupted too often',
  });
}

/** The file came to its end, or was deleted, after it was listed. */
function ignoreMovedOn(error: unknown): void {
  if (!(error instanceof AppError && ['wrong_state', 'not_found'].includes(error.code))) throw error;
}
