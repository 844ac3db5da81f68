import type { Problem } from '../core/database/entities/file.js';
import { isConflict, isDatabaseAway } from '../core/database/outage.js';
import { AppError } from '../core/errors.js';
import { AttemptOver } from '../core/files/attempt.js';
import { failFile } from '../core/files/status.js';
import { recordAttemptError } from '../core/files/steps.js';
import { StorageFull } from '../core/storage/disk-room.js';
import type { Attempt, PipelineDeps } from './attempt.js';

/* The failures of an attempt: those of the file, and those of which no file is at fault. */

/** Whether an error of this attempt says nothing about its file, so that nothing may be recorded. */
export async function isBlameless(deps: PipelineDeps, attempt: Attempt, error: unknown): Promise<boolean> {
  return attempt.signal.aborted || error instanceof AttemptOver || (await isOutage(deps, error));
}

/**
 * Whether an error comes from an outage and not from the file. This asks the services: an error alone does not tell a
 * store that is away from an object that it will never return.
 */
export async function isOutage({ dependencies }: PipelineDeps, error: unknown): Promise<boolean> {
  if (error instanceof StorageFull) return true;
  if (!isRetryable(error)) return false;
  const isAway = await dependencies.check();
  // A database that has restarted meanwhile answers again: the error itself says that it was away.
  return isAway || isDatabaseAway(error) || isConflict(error);
}

/** An error that is not an AppError (the database is away, a disk does not answer) may be temporary. */
export function isRetryable(error: unknown): boolean {
  return !(error instanceof AppError) || error.retryable;
}

/** Records the failure of an attempt in the row of its file. @throws {AttemptOver} */
export async function recordFailure(deps: PipelineDeps, attempt: Attempt, error: unknown): Promise<void> {
  const { file, step, lastAttempt, log } = attempt;
  const problem = toProblem(step, error);
  log[levelOf(error)]({ err: error, step, lastAttempt }, 'step failed');
  if (!isRetryable(error) || lastAttempt) await failFile(deps.database, file, problem);
  else {
    await recordAttemptError(deps.database, file, problem);
    deps.metrics.stepRetried(step);
  }
}

/** A faulty file concerns its owner, who finds the problem in its row. Other errors concern the operator. */
function levelOf(error: unknown): 'info' | 'warn' | 'error' {
  if (!(error instanceof AppError)) return 'error';
  return error.retryable ? 'warn' : 'info';
}

export function toProblem(step: string, error: unknown): Problem {
  const known = error instanceof AppError ? error : new AppError('internal');
  return { step, code: known.code, detail: known.detail ?? known.title };
}
