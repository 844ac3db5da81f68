import type { DataSource, EntityManager } from 'typeorm';
import { Derivative } from '../database/entities/derivative.js';
import type { Problem, StepRecord } from '../database/entities/file.js';
import { countChanged, queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import { referenceBlobs, releaseBlobs, type StoredBlob } from './blobs.js';
import type { FileRun } from './status.js';

/*
 * The results of a file's processing so far. Facts are written together with the record that their step is done, so that
 * a later attempt continues after that step. Only the file's present attempt may write.
 */

/** A derivative whose bytes are stored and whose blob has no reference yet. */
interface NewDerivative {
  name: string;
  blob: StoredBlob;
  contentType: string;
  /** Pixels. */
  width: number;
  height: number;
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
  warnings?: Problem[];
}

/** How far a run has come. */
export interface Progress {
  step: string;
  /** Percent of the whole processing. */
  progress: number;
  /** How long the rest of it will probably take. */
  etaSeconds: number;
}

/** Updates a run's progress, without an event. */
export async function showProgress(
  database: DataSource,
  file: FileRun,
  { step, progress, etaSeconds }: Progress,
): Promise<void> {
  await database.query(
    `UPDATE files SET step = $3, progress = $4, eta_seconds = $6, updated_at = now()
     WHERE id = $1 AND run = $2 AND attempts = $5 AND status = 'processing'`,
    [file.id, file.run, step, progress, file.attempts, etaSeconds],
  );
}

/** Records why an attempt failed that will be followed by another. */
export async function recordAttemptError(database: DataSource, file: FileRun, error: Problem): Promise<void> {
  await database.query(
    `UPDATE files SET error = $3, eta_seconds = NULL, updated_at = now()
     WHERE id = $1 AND run = $2 AND attempts = $4 AND status = 'processing'`,
    [file.id, file.run, JSON.stringify(error), file.attempts],
  );
}

/** How a step ended and the facts that it found. */
export interface StepResult {
  step: string;
  record: StepRecord;
  facts: Facts;
}

/**
 * Writes the facts of steps and records the steps as done, with an event for each.
 * @param next the run's progress after these steps
 * @throws {AppError} gone when the attempt is no longer the file's present one
 */
export async function recordSteps(
  database: DataSource,
  file: FileRun,
  results: StepResult[],
  next: Progress,
): Promise<void> {
  const facts = results.map((result) => result.facts);
  const merged: Facts = Object.assign({}, ...facts);
  const records = Object.fromEntries(results.map(({ step, record }) => [step, record]));
  await database.transaction(async (manager) => {
    const changed = await countChanged(
      manager,
      `UPDATE files
       SET step = $3, progress = $4, steps = steps || $5::jsonb,
           detected_type = CASE WHEN $6 THEN $7 ELSE detected_type END,
           sha256 = coalesce($8, sha256), clean = coalesce($9, clean),
           metadata = metadata || $10::jsonb, warnings = warnings || $11::jsonb,
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
    if (changed === 0) throw new AppError('gone', { detail: 'This attempt is over' });
    const derivatives = facts.flatMap((found) => found.derivatives ?? []);
    if (derivatives.length > 0) await replaceDerivatives(manager, file.id, derivatives);
    await appendEvents(
      manager,
      results.map(({ step, record }) => ({
        type: 'file.step',
        subjectId: file.id,
        ownerId: file.ownerId,
        data: { step, ...record },
      })),
    );
  });
}

async function replaceDerivatives(
  manager: EntityManager,
  fileId: string,
  derivatives: NewDerivative[],
): Promise<void> {
  const names = derivatives.map((derivative) => derivative.name);
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
  await referenceBlobs(
    manager,
    derivatives.map(({ blob }) => blob.id),
  );
  await manager
    .getRepository(Derivative)
    .insert(derivatives.map(({ blob, ...derivative }) => ({ ...derivative, fileId, blobId: blob.id })));
}
