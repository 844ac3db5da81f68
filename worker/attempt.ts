import type { DataSource } from 'typeorm';
import type { File } from '../core/database/entities/file.js';
import type { StoredBlob } from '../core/files/blobs.js';
import type { Estimates } from '../core/files/estimates.js';
import type { StepResult } from '../core/files/steps.js';
import type { Logger } from '../core/log.js';
import type { Parsers } from '../core/media/parsers.js';
import type { Metrics } from '../core/metrics/metrics.js';
import type { Storage } from '../core/storage/storage.js';
import type { Tracer } from '../core/tracing/tracer.js';
import type { Dependencies } from './dependencies.js';
import type { Outcome, Steps } from './steps/step.js';
import type { WorkFolders } from './work-folders.js';

/* What the parts of the pipeline share. */

export interface PipelineDeps {
  database: DataSource;
  storage: Storage;
  dependencies: Pick<Dependencies, 'away' | 'check'>;
  parsers: Parsers;
  workFolders: WorkFolders;
  steps: Steps;
  estimates: Pick<Estimates, 'decodeMs'>;
  metrics: Pick<Metrics, 'stepRetried'>;
  log: Logger;
  tracer?: Tracer | undefined;
}

/** An attempt under way. */
export interface Attempt {
  /** As it was when the attempt began, with its detected type as soon as that is known. */
  readonly file: File;
  /** Holds the bytes of the file; another one as soon as the file shares those of an older file. */
  blob: StoredBlob;
  /** Name of the step that is running; a failure is recorded under it. */
  step: string;
  readonly lastAttempt: boolean;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** Percent of the progress that the read stands for; the other steps share the rest evenly. */
export const READ_PERCENT = 50;

/** Estimate for the steps after the read, as long as no such files are known. */
const DECODE_MS = 1_000;

/** How long the steps after the read will probably take, in seconds. @param spentMs milliseconds that they have taken so far */
export async function decodeSeconds(
  { estimates }: Pick<PipelineDeps, 'estimates'>,
  file: File,
  spentMs = 0,
): Promise<number> {
  const ms = (await estimates.decodeMs(file)) ?? DECODE_MS;
  return Math.max(1, Math.ceil((ms - spentMs) / 1000));
}

/** @throws {AppError} the error of a step that failed */
export function toResult(step: string, outcome: Outcome, ms: number): StepResult {
  switch (outcome.outcome) {
    case 'done':
      return { step, record: { state: 'done', ms }, facts: outcome.facts };
    case 'skipped':
      return { step, record: { state: 'skipped', ms, reason: outcome.reason }, facts: {} };
    case 'failed':
      throw outcome.error;
  }
}
