import type { File } from '../core/database/entities/file.js';
import { AppError } from '../core/errors.js';
import { AttemptOver } from '../core/files/attempt.js';
import { quarantineBlob } from '../core/files/quarantine.js';
import { completeFile, failFile, infectFile, startAttempt } from '../core/files/status.js';
import { jobId } from '../core/queue/job.js';
import { type JobContext, JobInterrupted } from '../core/queue/worker.js';
import { ScannerLost } from '../core/scanning/scanner.js';
import { StorageFull } from '../core/storage/disk-room.js';
import type { Attempt, PipelineDeps } from './attempt.js';
import { runSteps } from './decoding.js';
import { isBlameless, isOutage, recordFailure } from './failures.js';
import { readThrough } from './reading.js';

/*
 * The processing of a file, and how it continues after a crash.
 *
 * One read of the object serves the stream steps: verify, sniff, scan. Only a clean file is passed on to the
 * steps that decode it. The facts that a step found are committed together with the record that it is done,
 * so a later attempt begins where this one ended. Each commit names the run and the attempt: a worker that
 * lost its job changes nothing.
 */

/** The shortest delay of a job that an outage interrupted. */
const AFTER_OUTAGE_MS = 5_000;

/** The shortest delay of a job that found the disk full. */
const AFTER_FULL_DISK_MS = 60_000;

/** How often the scanner may die while it scans a file before the file is held to be the reason. */
const MAX_SCANNERS_LOST = 10;

/** How many worker crashes a job survives. They are rarely the file's fault: parser processes decode it. */
const MAX_CRASHES = 10;

/**
 * Runs one attempt of a job. Ends soon after the job's signal has aborted, in whatever way.
 * @throws {JobInterrupted} when a service is away that every file needs, or an outside service answers later
 * @throws the error of the failed step, after recording it: the queue decides by it about another attempt
 */
export function processFile(deps: PipelineDeps, job: JobContext): Promise<void> {
  if (!deps.tracer) return attemptJob(deps, job);
  const attributes = {
    'landfall.upload_id': job.fileId,
    'landfall.job_id': jobId(job),
    'landfall.request_id': job.requestId,
    'landfall.attempt': job.attempt,
  };
  return deps.tracer.job(job, 'job', attributes, () => attemptJob(deps, job));
}

async function attemptJob(deps: PipelineDeps, job: JobContext): Promise<void> {
  if (deps.dependencies.away) throw new JobInterrupted(AFTER_OUTAGE_MS);
  const deadline = await runAttempt(deps, job).catch(async (error: unknown) => {
    if (job.signal.aborted) throw error;
    if (error instanceof AttemptOver) return undefined;
    if (error instanceof StorageFull) throw new JobInterrupted(AFTER_FULL_DISK_MS);
    if (await isOutage(deps, error)) throw new JobInterrupted(AFTER_OUTAGE_MS);
    throw error;
  });
  // The job itself waits: it runs again at the deadline, or earlier when it is woken up.
  if (deadline) throw new JobInterrupted(Math.max(0, deadline.getTime() - Date.now()));
}

/** @returns when to look again, if a step waits for an answer */
async function runAttempt(deps: PipelineDeps, job: JobContext): Promise<Date | undefined> {
  const started = await startAttempt(deps.database, job, deps.steps.reading[0]?.name ?? '');
  if (!started) return undefined;
  const { file, blob } = started;
  const log = deps.log.child({ requestId: job.requestId, fileId: file.id, jobId: jobId(job) });
  log.info({ attempt: file.attempts }, 'attempt begins');
  const { lastAttempt, signal } = job;
  const attempt: Attempt = { file, blob, step: file.step ?? '', lastAttempt, signal, log };
  if (job.crashes > MAX_CRASHES) {
    const detail = 'The processing was interrupted too often';
    await failFile(deps.database, file, { step: attempt.step, code: 'internal', detail });
    return undefined;
  }
  try {
    const infected = await readThrough(deps, attempt);
    if (infected) {
      const { step, record, facts } = infected;
      const problem = { step, code: 'infected', detail: `Found: ${facts.threat}` };
      await infectFile(deps.database, file, { error: problem, metadata: facts.metadata }, record);
      log.info('file is infected');
      // What fails here, the reconciler does.
      await quarantineBlob(deps, attempt.blob.id).catch((err: unknown) => log.warn({ err }, 'quarantine'));
      return undefined;
    }
    const deadline = await runSteps(deps, attempt);
    const reading = deps.steps.reading.map(({ name }) => name);
    if (!deadline) await completeFile(deps.database, file, reading);
    log.info({ until: deadline }, deadline ? 'file waits for an answer' : 'file completed');
    return deadline;
  } catch (thrown) {
    const error = hasKilledScanners(thrown, file, job) ? scannersDied(thrown) : thrown;
    if (!(await isBlameless(deps, attempt, error))) await recordFailure(deps, attempt, error);
    throw error;
  }
}

/** Each outage of the scanner begins another attempt that does not count. */
function hasKilledScanners(error: unknown, { attempts }: File, { attempt }: JobContext): boolean {
  return error instanceof ScannerLost && attempts - attempt >= MAX_SCANNERS_LOST;
}

function scannersDied(cause: unknown): AppError {
  const detail = 'The virus scanner went away each time it scanned this file';
  return new AppError('scan_failed', { detail, cause });
}
