import type { DataSource, EntityManager } from 'typeorm';
import type { Actor } from '../database/entities/event.js';
import { File, type FileStatus } from '../database/entities/file.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import type { Logger } from '../log.js';
import { jobId } from '../queue/job.js';
import type { ProcessingQueue } from '../queue/queue.js';
import { addJobs } from '../uploads/settle.js';
import { changeByUser } from './status.js';

/*
 * Jobs as admins see them: the present run of each file. PostgreSQL is the truth, so the list shows what failed long ago
 * too, although the queue forgets jobs that have ended, and it can be read while the queue is away.
 */

export interface JobDeps {
  database: DataSource;
  queue: ProcessingQueue;
  log: Logger;
}

/** Names the job of one run of a file. */
export interface JobKey {
  fileId: string;
  run: number;
}

/** A job that an admin can see. The trash holds no jobs. */
export const VISIBLE = 'deleted_at IS NULL AND removed_run IS DISTINCT FROM run';

/**
 * Lists jobs, those of the newest files first.
 * @param list.step and `code`: only jobs whose last attempt failed in this step, for this reason
 * @param list.after id of the last file of the previous page
 */
export async function listJobs(
  database: DataSource,
  {
    status,
    step,
    code,
    after,
    limit,
  }: {
    status?: FileStatus | undefined;
    step?: string | undefined;
    code?: string | undefined;
    after?: string | undefined;
    limit: number;
  },
): Promise<File[]> {
  return queryEntities(
    database,
    File,
    `SELECT * FROM files
     WHERE ${VISIBLE} AND ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR id < $2)
       AND ($4::text IS NULL OR error ->> 'step' = $4) AND ($5::text IS NULL OR error ->> 'code' = $5)
     ORDER BY id DESC LIMIT $3`,
    [status ?? null, after ?? null, limit, step ?? null, code ?? null],
  );
}

/** @throws {AppError} not_found, also when the file has a newer run */
export async function getJob(database: DataSource, key: JobKey): Promise<File> {
  return findJob(database.manager, key);
}

async function findJob(manager: EntityManager, { fileId, run }: JobKey, lock = ''): Promise<File> {
  const [file] = await queryEntities(
    manager,
    File,
    `SELECT * FROM files WHERE id = $1 AND run = $2 AND ${VISIBLE} ${lock}`,
    [fileId, run],
  );
  if (!file) throw new AppError('not_found');
  return file;
}

/**
 * Begins a new run of a file whose processing failed or was canceled. Steps that are done are not repeated.
 * @returns the file with its new run
 * @throws {AppError} not_found; wrong_state
 */
export async function retryJob(deps: JobDeps, key: JobKey, actor: Actor): Promise<File> {
  const { id } = await getJob(deps.database, key);
  const file = await changeByUser(deps.database, id, 'retry', actor);
  await addJobs(deps, [file], actor);
  return file;
}

/**
 * Removes a job. A file that waits for its processing becomes canceled, so that nothing adds the job again; its owner can
 * retry it. A file whose processing has ended stays as it is. The job leaves the queue first: until then a worker could
 * begin it.
 * @throws {AppError} not_found; wrong_state when a worker runs it; unavailable
 */
export async function removeJob({ database, queue }: JobDeps, key: JobKey, actor: Actor): Promise<void> {
  await getJob(database, key);
  if (!(await queue.controls.remove(jobId(key)))) {
    throw new AppError('wrong_state', { detail: 'A worker runs this job: try again when it has ended' });
  }
  const { status } = await getJob(database, key);
  if (status === 'pending' || status === 'processing') {
    await changeByUser(database, key.fileId, 'cancel', actor);
  }
  await database.transaction(async (manager) => {
    const { ownerId } = await findJob(manager, key, 'FOR UPDATE');
    await manager.update(File, { id: key.fileId }, { removedRun: key.run });
    await appendEvents(manager, [
      { type: 'job.removed', subjectId: key.fileId, ownerId, actor, data: { run: key.run } },
    ]);
  });
}
