import { addAbortSignal } from 'node:stream';
import type { DataSource } from 'typeorm';
import type { Blob } from '../core/database/entities/blob.js';
import type { File, Problem } from '../core/database/entities/file.js';
import { isConflict, isDatabaseAway } from '../core/database/outage.js';
import { AppError } from '../core/errors.js';
import { openBlob, storeBlobs } from '../core/files/blobs.js';
import { completeFile, failFile, infectFile, startAttempt } from '../core/files/status.js';
import {
  type Facts,
  type Progress,
  recordAttemptError,
  recordSteps,
  type StepResult,
  showProgress,
} from '../core/files/steps.js';
import type { Logger } from '../core/log.js';
import type { ByteSource, Parsers } from '../core/media/parsers.js';
import { type JobContext, JobInterrupted } from '../core/queue/worker.js';
import type { Storage } from '../core/storage/storage.js';
import type { Dependencies } from './dependencies.js';
import { metadata } from './steps/metadata.js';
import { scan } from './steps/scan.js';
import { sniff } from './steps/sniff.js';
import type { Step, StepContext, StreamStep } from './steps/step.js';
import { thumbnails } from './steps/thumbnails.js';
import { verify } from './steps/verify.js';

/*
 * The processing of a file, and how it continues after a crash.
 *
 * One read of the object serves the stream steps: verify, sniff, scan. Only a clean file is passed on to the
 * steps that decode it. The facts that a step found are committed together with the record that it is done,
 * so a later attempt begins where this one ended. Each commit names the run and the attempt: a worker that
 * lost its job changes nothing.
 */

export interface PipelineDeps {
  database: DataSource;
  storage: Storage;
  dependencies: Pick<Dependencies, 'away' | 'check'>;
  parsers: Parsers;
  log: Logger;
}

const STREAM_STEPS: readonly StreamStep[] = [verify, sniff, scan];
const STEPS: readonly Step[] = [metadata, thumbnails];

/** Percent of the progress that the read stands for; the other steps share the rest evenly. */
const READ_PERCENT = 50;

const PROGRESS_EVERY_MS = 200;

/** Estimate for the steps after the read. It does not grow with the size of the file. */
const DECODE_SECONDS = 1;

/** The shortest delay of a job that an outage interrupted. */
const AFTER_OUTAGE_MS = 5_000;

/** The shortest delay of a job that found the disk full: each try reads and decodes its file again. */
const AFTER_FULL_DISK_MS = 60_000;

/** How many worker crashes a job survives. They are rarely the file's fault: parser processes decode it. */
const MAX_CRASHES = 10;

/**
 * Runs one attempt of a job.
 * @param signal aborts when the process shuts down
 * @throws {JobInterrupted} when the process shuts down, or a service is away that every file needs
 * @throws the error of the failed step, after recording it: the queue decides by it about another attempt
 */
export async function processFile(deps: PipelineDeps, job: JobContext, signal: AbortSignal): Promise<void> {
  if (deps.dependencies.away) throw new JobInterrupted(AFTER_OUTAGE_MS);
  try {
    await runAttempt(deps, job, signal);
  } catch (error) {
    if (signal.aborted) throw new JobInterrupted();
    if (isOver(error)) return;
    if (isStorageFull(error)) throw new JobInterrupted(AFTER_FULL_DISK_MS);
    if (await isOutage(deps, error)) throw new JobInterrupted(AFTER_OUTAGE_MS);
    throw error;
  }
}

async function runAttempt(deps: PipelineDeps, job: JobContext, signal: AbortSignal): Promise<void> {
  const started = await startAttempt(deps.database, job, STREAM_STEPS[0]?.name ?? '');
  if (!started) return;
  const { file, blob } = started;
  const log = deps.log.child({ fileId: file.id, run: file.run, requestId: job.requestId });
  const at = { step: file.step ?? '' };
  if (job.crashes > MAX_CRASHES) {
    const detail = 'The processing was interrupted too often';
    await failFile(deps.database, file, { step: at.step, code: 'internal', detail });
    return;
  }
  try {
    const infected = await readThrough(deps, file, blob, at, signal);
    if (infected) {
      const { step, record, facts } = infected;
      const problem = { step, code: 'infected', detail: `Found: ${facts.threat}` };
      await infectFile(deps.database, file, problem, record);
      return;
    }
    for (const [index, step] of STEPS.entries()) {
      at.step = step.name;
      if (file.steps[step.name]) continue;
      const result = await runStep(deps, step, file, blob, { log, signal, lastAttempt: job.lastAttempt });
      const share = (100 - READ_PERCENT) / STEPS.length;
      await record(deps, file, [result], {
        step: STEPS[index + 1]?.name ?? step.name,
        progress: Math.round(READ_PERCENT + share * (index + 1)),
        etaSeconds: index + 1 < STEPS.length ? DECODE_SECONDS : 0,
      });
    }
    await completeFile(deps.database, file);
  } catch (error) {
    if (signal.aborted || isOver(error) || (await isOutage(deps, error))) throw error;
    await recordFailure(deps, file, at.step, error, job.lastAttempt, log);
    throw error;
  }
}

/**
 * Whether an error comes from an outage and not from the file. This asks the database and the store: an error
 * alone does not tell a store that is away from an object that it will never return.
 */
async function isOutage({ dependencies }: PipelineDeps, error: unknown): Promise<boolean> {
  if (!isRetryable(error)) return false;
  if (isStorageFull(error)) return true;
  const isAway = await dependencies.check();
  // A database that has restarted meanwhile answers again: the error itself says that it was away.
  return isAway || isDatabaseAway(error) || isConflict(error);
}

function isStorageFull(error: unknown): boolean {
  return error instanceof AppError && error.code === 'storage_full' && error.retryable;
}

/**
 * Whether this run has lost its row: the file was deleted, processed again, or finished by another worker.
 */
function isOver(error: unknown): boolean {
  return error instanceof AppError && ['gone', 'not_found', 'wrong_state'].includes(error.code);
}

async function recordFailure(
  deps: PipelineDeps,
  file: File,
  step: string,
  error: unknown,
  lastAttempt: boolean,
  log: Logger,
): Promise<void> {
  const problem = toProblem(step, error);
  // A faulty file concerns its owner, who finds the problem in its row. Other errors concern the operator.
  const level = error instanceof AppError && !error.retryable ? 'info' : 'warn';
  log[level]({ err: error, step, lastAttempt }, 'step failed');
  if (!isRetryable(error) || lastAttempt) await failFile(deps.database, file, problem);
  else await recordAttemptError(deps.database, file, problem);
}

/** An error that is not an AppError (the database is away, a disk does not answer) may be temporary. */
function isRetryable(error: unknown): boolean {
  return !(error instanceof AppError) || error.retryable;
}

function toProblem(step: string, error: unknown): Problem {
  const known = error instanceof AppError ? error : new AppError('internal');
  return { step, code: known.code, detail: known.detail ?? known.title };
}

/** Commits the results of steps and updates the file in memory to match its row. */
async function record(deps: PipelineDeps, file: File, results: StepResult[], next: Progress): Promise<void> {
  await recordSteps(deps.database, file, results, next);
  for (const { facts } of results) {
    if (facts.detectedType !== undefined) file.detectedType = facts.detectedType;
  }
}

/** Reads the object once for all open stream steps. Returns the result of a step that found a threat. */
async function readThrough(
  deps: PipelineDeps,
  file: File,
  blob: Blob,
  at: { step: string },
  signal: AbortSignal,
): Promise<StepResult | undefined> {
  const open = STREAM_STEPS.filter((step) => !file.steps[step.name]);
  if (open.length === 0) return undefined;
  at.step = open[0]?.name ?? '';
  const began = performance.now();
  const lap = createLap(began);
  const watched = open.map((step) => ({
    step,
    observer: step.begin(file, { parsers: deps.parsers, signal }),
    ms: 0,
  }));
  let read = 0;
  let shown = began;
  for await (const chunk of addAbortSignal(signal, await openBlob(deps.storage.blobs, blob))) {
    // The first step is charged for the time spent waiting for bytes.
    if (watched[0]) watched[0].ms += lap();
    for (const one of watched) {
      one.observer.push(chunk);
      one.ms += lap();
    }
    read += chunk.length;
    const now = performance.now();
    if (now - shown < PROGRESS_EVERY_MS) continue;
    shown = now;
    await showProgress(deps.database, file, {
      step: at.step,
      progress: Math.floor((READ_PERCENT * read) / file.size),
      etaSeconds: Math.ceil(((now - began) * (file.size - read)) / read / 1000) + DECODE_SECONDS,
    });
  }

  const results: StepResult[] = [];
  for (const { step, observer, ms } of watched) {
    at.step = step.name;
    const facts = (await observer.end()) ?? {};
    results.push({ step: step.name, record: { state: 'done', ms: Math.round(ms + lap()) }, facts });
  }
  // A step that found a threat is recorded with the verdict: a step recorded as done never runs again.
  const infected = results.find(({ facts }) => facts.threat !== undefined);
  const clean = results.filter((result) => result !== infected);
  await record(deps, file, clean, {
    step: STEPS[0]?.name ?? '',
    progress: READ_PERCENT,
    etaSeconds: DECODE_SECONDS,
  });
  return infected;
}

/** @returns a function that tells the milliseconds since its last call */
function createLap(began: number): () => number {
  let last = began;
  return () => {
    const now = performance.now();
    const ms = now - last;
    last = now;
    return ms;
  };
}

/** Runs a step. An optional step that fails for good leaves a warning and does not fail the file. */
async function runStep(
  deps: PipelineDeps,
  step: Step,
  file: File,
  blob: Blob,
  attempt: { log: Logger; signal: AbortSignal; lastAttempt: boolean },
): Promise<StepResult> {
  const reason = step.skips(file);
  if (reason) return { step: step.name, record: { state: 'skipped', ms: 0, reason }, facts: {} };
  const began = performance.now();
  const elapsed = () => Math.round(performance.now() - began);
  const context: StepContext = {
    file,
    source: sourceOf(deps.storage, blob),
    parsers: deps.parsers,
    writeBlobs: (contents) => storeBlobs(deps, contents),
    signal: attempt.signal,
    log: attempt.log,
  };
  try {
    const facts: Facts = await step.run(context);
    return { step: step.name, record: { state: 'done', ms: elapsed() }, facts };
  } catch (error) {
    const final = !isRetryable(error) || attempt.lastAttempt;
    if (attempt.signal.aborted || !step.optional || !final || (await isOutage(deps, error))) throw error;
    attempt.log.info({ err: error, step: step.name }, 'optional step failed');
    const problem = toProblem(step.name, error);
    return {
      step: step.name,
      record: { state: 'failed', ms: elapsed(), reason: problem.detail },
      facts: { warnings: [problem] },
    };
  }
}

function sourceOf({ blobs }: Storage, blob: Blob): ByteSource {
  return {
    size: blob.size,
    read: (count) => openBlob(blobs, blob, count < blob.size ? { start: 0, end: count - 1 } : undefined),
  };
}
