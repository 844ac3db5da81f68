import { createHash } from 'node:crypto';
import { addAbortSignal } from 'node:stream';
import type { StoredBlob } from '../core/files/blobs.js';
import { shareBytes, UnreadTwin } from '../core/files/duplicates.js';
import { leaveQuarantine } from '../core/files/quarantine.js';
import { type Progress, recordSteps, type StepResult } from '../core/files/steps.js';
import type { Attempt, PipelineDeps } from './attempt.js';
import { openContent } from './content.js';
import { isOutage } from './failures.js';

/**
 * Records the steps that have read the file. If an older file of its owner has the same bytes, the file shares them from
 * then on: `attempt.blob` changes. The older bytes are read before: somebody may have sent the file again because the
 * stored one is broken, so the only good bytes must not be given up for it.
 * @throws {AttemptOver}
 */
export async function recordReading(
  deps: PipelineDeps,
  attempt: Attempt,
  results: StepResult[],
  next: Progress,
): Promise<void> {
  const { file } = attempt;
  const sha256 = results.find(({ facts }) => facts.sha256 !== undefined)?.facts.sha256;
  // A file that can be read already keeps its blob: see core/files/duplicates.ts.
  const isClean = results.some(({ facts }) => facts.clean);
  if (isClean && file.inQuarantine) {
    attempt.blob = await leaveQuarantine(deps, file, attempt.blob);
    file.blobId = attempt.blob.id;
  }
  if (sha256 === undefined || file.clean) return recordSteps(deps.database, file, results, next);
  const read = new Map<string, boolean>();
  for (;;) {
    try {
      const shared = await recordSteps(deps.database, file, results, next, (manager) =>
        shareBytes(manager, file, sha256, read),
      );
      if (shared) attempt.blob = shared;
      return;
    } catch (error) {
      if (!(error instanceof UnreadTwin)) throw error;
      read.set(error.blob.id, await hasSha256(deps, attempt, error.blob, sha256));
    }
  }
}

/** Reads a blob of another file. Its faults do not concern this attempt. */
async function hasSha256(
  deps: PipelineDeps,
  { signal, log }: Attempt,
  blob: StoredBlob,
  sha256: string,
): Promise<boolean> {
  const hash = createHash('sha256');
  try {
    const bytes = addAbortSignal(signal, await openContent(deps.storage, blob));
    for await (const chunk of bytes) hash.update(chunk);
  } catch (error) {
    if (signal.aborted || (await isOutage(deps, error))) throw error;
    log.error({ err: error, blobId: blob.id }, 'stored bytes cannot be read: a duplicate keeps its own');
    return false;
  }
  if (hash.digest('hex') === sha256) return true;
  log.error({ blobId: blob.id }, 'stored bytes have changed: a duplicate keeps its own');
  return false;
}
