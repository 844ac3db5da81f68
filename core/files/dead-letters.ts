import type { DataSource } from 'typeorm';
import type { Actor } from '../database/entities/event.js';
import type { File } from '../database/entities/file.js';
import { queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { addJobs } from '../uploads/settle.js';
import { type JobDeps, VISIBLE } from './jobs.js';
import { changeByUser } from './status.js';

/*
 * Dead letters: the files whose processing has failed for good, by the reason of the failure, and how all of them are tried
 * again. They are rows of `files`, so none is forgotten.
 */

/** The files that failed for one reason. */
export interface FailureGroup {
  step: string;
  code: string;
  files: number;
  /** When the first and the last of them failed. */
  oldestAt: Date;
  newestAt: Date;
}

export interface FailureFilter {
  step?: string | undefined;
  code?: string | undefined;
  /** Failed before this time. */
  failedBefore: Date;
}

/** How many files are retried by one request, and how many are read at once. */
const AT_MOST = 1_000;
const BATCH = 100;

const FAILED = `status = 'failed' AND ${VISIBLE}`;

/** The files whose processing has failed, by reason, the most frequent reason first. */
export async function listFailures(database: DataSource): Promise<FailureGroup[]> {
  return queryRows(
    database,
    `SELECT coalesce(error ->> 'step', '') AS step, coalesce(error ->> 'code', 'internal') AS code,
            count(*)::integer AS files, min(updated_at) AS "oldestAt", max(updated_at) AS "newestAt"
     FROM files WHERE ${FAILED} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2`,
  );
}

/**
 * Begins a new run of the files that match, the oldest first, at most AT_MOST of them. Steps that are done are not repeated.
 * @returns how many were retried, and how many match still
 */
export async function retryFailed(
  deps: JobDeps,
  filter: FailureFilter,
  actor: Actor,
): Promise<{ retried: number; remaining: number }> {
  let retried = 0;
  for (let after: string | undefined; retried < AT_MOST; ) {
    const ids = await listFailed(deps.database, filter, after);
    const files: File[] = [];
    for (const id of ids) {
      const file = await changeByUser(deps.database, id, 'retry', actor).catch(ignoreMovedOn);
      if (file) files.push(file);
    }
    await addJobs(deps, files, actor);
    retried += files.length;
    after = ids.at(-1);
    if (ids.length < BATCH) break;
  }
  return { retried, remaining: await countFailed(deps.database, filter) };
}

/** SQL condition, with the parameters $1 to $3 of toParameters(). */
const MATCHES = `${FAILED} AND updated_at < $1
  AND ($2::text IS NULL OR error ->> 'step' = $2) AND ($3::text IS NULL OR error ->> 'code' = $3)`;

function toParameters({ failedBefore, step, code }: FailureFilter): unknown[] {
  return [failedBefore, step ?? null, code ?? null];
}

async function listFailed(
  database: DataSource,
  filter: FailureFilter,
  after: string | undefined,
): Promise<string[]> {
  const rows = await queryRows<{ id: string }>(
    database,
    `SELECT id FROM files WHERE ${MATCHES} AND ($4::uuid IS NULL OR id > $4) ORDER BY id LIMIT ${BATCH}`,
    [...toParameters(filter), after ?? null],
  );
  return rows.map(({ id }) => id);
}

async function countFailed(database: DataSource, filter: FailureFilter): Promise<number> {
  const [row] = await queryRows<{ count: number }>(
    database,
    `SELECT count(*)::integer AS count FROM files WHERE ${MATCHES}`,
    toParameters(filter),
  );
  return row?.count ?? 0;
}

/** The owner has retried or deleted the file meanwhile. */
function ignoreMovedOn(error: unknown): undefined {
  if (error instanceof AppError && (error.code === 'wrong_state' || error.code === 'not_found'))
    return undefined;
  throw error;
}
