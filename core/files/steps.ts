import type { DataSource, EntityManager } from 'typeorm';
import { Derivative } from '../database/entities/derivative.js';
import { File, type Problem, type StepRecord, type WaitingStep } from '../database/entities/file.js';
import { countChanged, execute, queryEntities, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import { AttemptOver, type FileRun, type Run } from './attempt.js';
import { referenceBlobs, releaseBlobs, type StoredBlob } from './blobs.js';

/*
 * The results of a file's processing so far. Facts are written together with the record that their step is done, so that
 * a later attempt continues after that step. Only the file's present attempt may write.
 */

/** A derivative whose bytes are stored and whose blob has no reference yet. */
interface NewDerivative {
  /** As DERIVATIVE_NAME. A derivative of the file that has this name already is replaced. */
  name: string;
  blob: StoredBlob;
  contentType: string;
  /** Pixels; null for what is not a picture. */
  width: number | null;
  height: number | null;
}

/** The facts that a step found; undefined leaves the column unchanged. */
export interface Facts {
  detectedType?: string | null;
  sha256?: string;
  clean?: boolean;
  /** Name of the threat that the scan found; it ends the run as infected. */
  threat?: string;
  /** Merged into the metadata of other steps. */
  metadata?: Record<string, unknown>;
  derivatives?: NewDerivative[];
  /** Names of derivatives that an earlier run may have made, and that the file does not have any more. */
  withdrawn?: string[];
  warnings?: Problem[];
}

/** How far a run has come. */
export interface Progress {
  step: string;
  /** Percent of the whole processing. */
  progress: number;
  /** How long the rest of it will probably take; null: not known. */
  etaSeconds: number | null;
}

/** Updates a run's progress, without an event. @throws {AttemptOver} */
export async function showProgress(
  database: DataSource,
  file: FileRun,
  { step, progress, etaSeconds }: Progress,
): Promise<void> {
  const changed = await countChanged(
    database.manager,
    `UPDATE files SET step = $3, progress = $4, eta_seconds = $6, updated_at = now()
     WHERE id = $1 AND run = $2 AND attempts = $5 AND status = 'processing'`,
    [file.id, file.run, step, progress, file.attempts, etaSeconds],
  );
  if (changed === 0) throw endOf(file);
}

/** Records why an attempt failed that will be followed by another, which runs the failed step again. */
export async function recordAttemptError(database: DataSource, file: FileRun, error: Problem): Promise<void> {
  await execute(
    database,
    `UPDATE files SET error = $3, eta_seconds = NULL, updated_at = now(),
       steps = CASE WHEN steps -> $5::text ->> 'state' = 'waiting' THEN steps - $5::text ELSE steps END
     WHERE id = $1 AND run = $2 AND attempts = $4 AND status = 'processing'`,
    [file.id, file.run, JSON.stringify(error), file.attempts, error.step],
  );
}

/** How a step ended and the facts that it found. */
export interface StepResult {
  step: string;
  record: StepRecord;
  facts: Facts;
}

/** The steps of a file that have ended. */
export function endedSteps({ steps }: Pick<File, 'steps'>): Record<string, StepRecord> {
  const ended = Object.entries(steps).filter((entry): entry is [string, StepRecord] => !isWaiting(entry[1]));
  return Object.fromEntries(ended);
}

export function isWaiting(record: StepRecord | WaitingStep | undefined): record is WaitingStep {
  return record?.state === 'waiting';
}

/**
 * Writes the facts of steps and records how the steps ended, with an event for each.
 * @param next the run's progress after these steps
 * @param also further work of the same transaction
 * @returns what `also` returns
 * @throws {AttemptOver}, and as `also`
 */
export async function recordSteps<T = void>(
  database: DataSource,
  file: FileRun,
  results: StepResult[],
  next: Progress,
  also?: (manager: EntityManager) => Promise<T>,
): Promise<T | undefined> {
  return database.transaction(async (manager) => {
    await writeSteps(manager, file, results, next);
    return also?.(manager);
  });
}

/**
 * Records that a step waits for an answer, without an event. If the answer is there already, it stays.
 * @returns `ask`: the name of the question; an attempt asks once, and may put off the deadline later. `isAnswered`: whether the
 * answer is there
 * @throws {AttemptOver}
 */
export async function recordWaiting(
  database: DataSource,
  file: FileRun,
  step: string,
  until: Date,
): Promise<{ ask: string; isAnswered: boolean }> {
  const ask = `${file.run}-${file.attempts}`;
  const record: WaitingStep = { state: 'waiting', until: until.toISOString(), ask };
  const [written] = await queryRows<{ isAnswered: boolean }>(
    database,
    `UPDATE files SET step = $3, eta_seconds = NULL, updated_at = now(),
       steps = CASE WHEN steps -> $3::text ->> 'state' <> 'waiting' THEN steps
                    ELSE steps || jsonb_build_object($3::text, jsonb_build_object('since', $6::text) || coalesce(steps -> $3::text, '{}') || $4::jsonb) END
     WHERE id = $1 AND run = $2 AND attempts = $5 AND status = 'processing'
     RETURNING steps -> $3::text ->> 'state' <> 'waiting' OR steps -> $3::text -> 'failure' IS NOT NULL AS "isAnswered"`,
    [file.id, file.run, step, JSON.stringify(record), file.attempts, new Date().toISOString()],
  );
  if (!written) throw endOf(file);
  return { ask, isAnswered: written.isAnswered };
}

/**
 * Records the answer to a step that waits for an outside service. The caller wakes up the file's job then.
 * @param ask the question that is answered, see recordWaiting(); undefined: whichever is open
 * @returns the run that goes on; undefined if the step does not wait, for example because the file was canceled
 */
export async function answerStep(
  database: DataSource,
  fileId: string,
  result: StepResult,
  ask?: string,
): Promise<Run | undefined> {
  return answerWaiting(database, { fileId, step: result.step, ask }, (manager, file) =>
    writeSteps(manager, file, [result], { step: result.step, progress: file.progress, etaSeconds: null }),
  );
}

/**
 * Records that an outside service has failed. The worker judges it when the job goes on: the step may be optional, and another
 * attempt may be left. The caller wakes up the file's job then.
 * @param failure `retry`: whether another attempt may succeed
 * @returns as answerStep()
 */
export async function answerStepFailed(
  database: DataSource,
  waiting: { fileId: string; step: string; ask: string },
  failure: NonNullable<WaitingStep['failure']>,
): Promise<Run | undefined> {
  return answerWaiting(database, waiting, (manager, file) =>
    execute(
      manager,
      `UPDATE files SET steps = jsonb_set(steps, ARRAY[$2, 'failure'], $3::jsonb), updated_at = now() WHERE id = $1`,
      [file.id, waiting.step, JSON.stringify(failure)],
    ),
  );
}

/** Writes an answer, if the step waits for one and has none. */
async function answerWaiting(
  database: DataSource,
  { fileId, step, ask }: { fileId: string; step: string; ask: string | undefined },
  write: (manager: EntityManager, file: File) => Promise<unknown>,
): Promise<Run | undefined> {
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      `SELECT * FROM files
       WHERE id = $1 AND status = 'processing' AND deleted_at IS NULL
         AND steps -> $2::text ->> 'state' = 'waiting' AND steps -> $2::text -> 'failure' IS NULL
         AND ($3::text IS NULL OR steps -> $2::text ->> 'ask' = $3)
       FOR UPDATE`,
      [fileId, step, ask ?? null],
    );
    if (!file) return undefined;
    await write(manager, file);
    return { fileId, run: file.run };
  });
}

async function writeSteps(
  manager: EntityManager,
  file: FileRun,
  results: StepResult[],
  next: Progress,
): Promise<void> {
  const facts = results.map((result) => result.facts);
  const merged: Facts = Object.assign({}, ...facts);
  const records = Object.fromEntries(results.map(({ step, record }) => [step, record]));
  const changed = await countChanged(
    manager,
    `UPDATE files
     SET step = $3, progress = $4, steps = steps || $5::jsonb,
         detected_type = CASE WHEN $6 THEN $7 ELSE detected_type END,
         sha256 = coalesce($8, sha256), clean = coalesce($9, clean),
         metadata = metadata || $10::jsonb, warnings = warnings || $11::jsonb,
         corrupted_at = CASE WHEN $8 IS NULL THEN corrupted_at END,
         eta_seconds = $13, updated_at = now()
     WHERE id = $1 AND run = $2 AND attempts = $12 AND status = 'processing'`,
    [
      file.id,
      file.run,
      next.step,
      next.progress,
      JSON.stringify(records),
      merged.detectedType !== undefined,
      merged.detectedType ?? null,
      merged.sha256 ?? null,
      merged.clean ?? null,
      JSON.stringify(Object.assign({}, ...facts.map(({ metadata }) => metadata))),
      JSON.stringify(facts.flatMap(({ warnings }) => warnings ?? [])),
      file.attempts,
      next.etaSeconds,
    ],
  );
  if (changed === 0) throw endOf(file);
  const derivatives = facts.flatMap((found) => found.derivatives ?? []);
  const withdrawn = facts.flatMap((found) => found.withdrawn ?? []);
  if (derivatives.length + withdrawn.length > 0) {
    await replaceDerivatives(manager, file.id, derivatives, withdrawn);
  }
  await appendEvents(
    manager,
    results.map(({ step, record }) => ({
      type: 'file.step',
      subjectId: file.id,
      ownerId: file.ownerId,
      data: { step, ...record },
    })),
  );
}

function endOf({ id, run, attempts }: FileRun): AttemptOver {
  return new AttemptOver(`Attempt ${attempts} of run ${run} of file ${id} is over`);
}

async function replaceDerivatives(
  manager: EntityManager,
  fileId: string,
  derivatives: NewDerivative[],
  withdrawn: string[],
): Promise<void> {
  const names = [...derivatives.map((derivative) => derivative.name), ...withdrawn];
  const replaced = await queryEntities(
    manager,
    Derivative,
    'DELETE FROM derivatives WHERE file_id = $1 AND name = ANY ($2) RETURNING *',
    [fileId, names],
  );
  await releaseBlobs(
    manager,
    replaced.map((derivative) => derivative.blobId),
  );
  if (derivatives.length === 0) return;
  await referenceBlobs(
    manager,
    derivatives.map(({ blob }) => blob.id),
  );
  await manager
    .getRepository(Derivative)
    .insert(derivatives.map(({ blob, ...derivative }) => ({ ...derivative, fileId, blobId: blob.id })));
}
