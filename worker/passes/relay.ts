import type { DataSource } from 'typeorm';
import { forEachOf } from '../../core/concurrency.js';
import { mapFilesToRequests } from '../../core/events/queries.js';
import { AttemptOver } from '../../core/files/attempt.js';
import { countUnfinished, findFile, listUnfinished, type UnfinishedFile } from '../../core/files/queries.js';
import { failFile, raiseRun } from '../../core/files/status.js';
import type { Logger } from '../../core/log.js';
import { jobId, type ProcessingJob } from '../../core/queue/job.js';
import type { ProcessingQueue } from '../../core/queue/queue.js';

/** How many files are read at once. */
const BATCH = 500;

/** How many jobs are added at once: the queue must take them within its short time to answer. */
const JOBS = 100;

/** How many jobs are looked up at once. */
const QUESTIONS = 20;

/** Adding a job takes less time than this: an older file without a job will not get one by itself. */
const ADDED_AFTER_MS = 5_000;

/** Every file is checked at least this often, even if no job seems to be missing. */
const LOOK_AT_ALL_EVERY_MS = 3_600_000;

/** Servers may lose more jobs during this time after the queue has returned. */
const AFTER_RETURN_MS = 10_000;

interface RelayDeps {
  database: DataSource;
  queue: ProcessingQueue;
  log: Logger;
}

/**
 * Adds missing jobs, see relayJobs. A pass compares two numbers and checks each file only if there are fewer
 * jobs than files: a backlog of a million files with all their jobs costs next to nothing. Jobs of deleted
 * files may hide missing jobs. So the first pass checks all files, and so do a pass after the return of a
 * queue that may lose jobs and one pass an hour.
 * @returns a pass, which returns the number of added jobs
 */
export function createRelay(deps: RelayDeps): () => Promise<number> {
  let lookAtAllAt = 0;
  let lookAtAllUntil = 0;
  deps.queue.onBack?.(() => {
    lookAtAllUntil = Date.now() + AFTER_RETURN_MS;
  });

  async function isJobMissing(): Promise<boolean> {
    // Count jobs first: a job that ends in between is counted here, and its file may not be.
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
 * Adds the missing job of every unfinished file: a process died after the commit and never added it, or the
 * queue has lost it. Adding a job that exists is harmless.
 * @returns the number of added jobs
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
    for (let first = 0; first < missing.length; first += JOBS) {
      await addJobs(deps, missing.slice(first, first + JOBS));
    }
    added += missing.length;
    after = files.at(-1)?.id;
    if (files.length < BATCH) return added;
  }
}

async function addJobs({ database, queue, log }: RelayDeps, jobs: ProcessingJob[]): Promise<void> {
  const requests = await mapFilesToRequests(
    database,
    jobs.map(({ fileId }) => fileId),
  );
  const traced = jobs.map((job) => ({ ...job, requestId: requests.get(job.fileId) }));
  await queue.add(...traced);
  for (const { fileId, run, requestId } of traced) {
    log.info({ requestId, fileId, jobId: jobId({ fileId, run }) }, 'missing job queued');
  }
}

/** The missing job of this file, if any. */
async function findMissing(
  { database, queue }: RelayDeps,
  { id, run, priority, size }: UnfinishedFile,
): Promise<ProcessingJob | undefined> {
  const job = { fileId: id, run, priority, size };
  switch (await queue.getState(job)) {
    case 'open':
      return undefined;
    case 'missing':
      return job;
    case 'failed':
      // An attempt records its failure before its job fails; the last attempt of this job could not do so.
      await failUnfinished(database, job).catch(ignoreMovedOn);
      return undefined;
    case 'completed': {
      // The queue would ignore a new job with a completed id.
      const raised = await raiseRun(database, { id, run });
      return raised === undefined ? undefined : { ...job, run: raised };
    }
  }
}

async function failUnfinished(database: DataSource, { fileId, run }: ProcessingJob): Promise<void> {
  const file = await findFile(database, fileId, { trashed: true });
  if (file?.run !== run) return;
  await failFile(database, file, {
    step: file.step ?? 'start',
    code: 'internal',
    detail: 'The processing was interrupted too often',
  });
}

/** The file was completed or deleted after it was listed. */
function ignoreMovedOn(error: unknown): void {
  if (!(error instanceof AttemptOver)) throw error;
}
