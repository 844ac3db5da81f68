import type { File } from '../database/entities/file.js';
import type { CompleteSettings } from '../media/image-settings.js';
import { isWaiting } from './steps.js';

/* What the optimisation of an image has saved: the key `optimized` of a file's metadata. */

/** The name of the derivative that holds the optimised form. */
export const OPTIMIZED = 'optimized';

export interface OptimizedFact {
  /** `original`: there is no optimised form, because the original is to be used. */
  result: 'made' | 'original';
  /** Why the original is to be used. */
  reason?: string;
  /** Bytes. */
  originalSize: number;
  size: number;
  /** As compressionRatio(). */
  ratio: number;
  durationMs: number;
  /** Pixels; of one frame. */
  width: number;
  height: number;
  /** Such as `webp`. */
  format: string;
  settings: CompleteSettings;
}

/** The size of the result as a share of the original: 0.25 is a quarter. Rounded to four places. */
export function compressionRatio(size: number, originalSize: number): number {
  return originalSize === 0 ? 1 : Math.round((size / originalSize) * 10_000) / 10_000;
}

/** What was recorded; undefined: the step has not ended well, or runs again. */
export function readOptimized({ metadata }: Pick<File, 'metadata'>): OptimizedFact | undefined {
  return metadata[OPTIMIZED] as OptimizedFact | undefined;
}

/** Says to its owner why a file has no optimised form. */
export function whyNotOptimized(file: Pick<File, 'metadata' | 'steps' | 'status'>): string {
  const { optimize: record } = file.steps;
  const { reason } = readOptimized(file) ?? (record && !isWaiting(record) ? record : {});
  if (reason) return `There is no optimised form: ${reason}`;
  const isComing = file.status === 'pending' || file.status === 'processing';
  return isComing
    ? 'There is no optimised form yet: the file is being processed'
    : 'There is no optimised form: the file was not processed for one';
}
