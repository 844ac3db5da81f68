import type { DataSource, EntityManager } from 'typeorm';
import type { File } from '../database/entities/file.js';
import type { Listener } from '../database/listen.js';
import { execute, queryRows } from '../database/rows.js';

/*
 * An attempt to process a file, and how it learns that it is over. Every write of a worker names run and attempt, so an
 * attempt that is over changes nothing. The transaction that ends an attempt also notifies the workers, so that the
 * attempt stops at once and does not hold its slot until its next write.
 */

/** Identifies a file together with one attempt of one run of its processing. */
export type FileRun = Pick<File, 'id' | 'run' | 'attempts' | 'ownerId'>;

/** A run of a file's processing. */
export interface Run {
  fileId: string;
  run: number;
}

/** This attempt may write nothing more: the file was changed by its user or deleted, or another attempt goes on. */
export class AttemptOver extends Error {
  override name = 'AttemptOver';
}

const CHANNEL = 'attempt_over';

/** Tells the worker that processes a file to stop, as soon as the caller's transaction is committed. */
export async function stopAttempt(manager: EntityManager, { id, run }: FileRun): Promise<void> {
  await execute(manager, 'SELECT pg_notify($1, $2)', [CHANNEL, JSON.stringify({ fileId: id, run })]);
}

/** Calls `stop` with each run that is ended from now on while it is processed, by any process. */
export async function watchEndedRuns(listener: Listener, stop: (run: Run) => void): Promise<void> {
  await listener.subscribe(CHANNEL, (payload) => stop(JSON.parse(payload)));
}

/** Those of the given runs that are over. Finds them also when a notification was lost. */
export async function findEndedRuns(database: DataSource, runs: Run[]): Promise<Run[]> {
  const going = await queryRows<Run>(
    database,
    `SELECT id AS "fileId", run FROM files WHERE id = ANY ($1) AND status IN ('pending', 'processing')`,
    [runs.map(({ fileId }) => fileId)],
  );
  return runs.filter(({ fileId, run }) => !going.some((one) => one.fileId === fileId && one.run === run));
}
