import { createHash } from 'node:crypto';
import { addAbortSignal } from 'node:stream';
import type { DataSource } from 'typeorm';
import { AppError } from '../../core/errors.js';
import { openBlob } from '../../core/files/blobs.js';
import {
  advanceScrub,
  endRound,
  listBlobsToScrub,
  markCorrupted,
  markIntact,
  openRound,
  type ScrubCandidate,
} from '../../core/files/scrub.js';
import type { Logger } from '../../core/log.js';
import type { Metrics } from '../../core/metrics/metrics.js';
import { checkStorage } from '../../core/storage/check.js';
import type { Storage } from '../../core/storage/storage.js';
import { createThrottle, type Throttle } from './throttle.js';

/*
 * Reads stored bytes back, at a set rate, and compares them with the SHA-256 that was measured when they were new.
 *
 * Other bytes, or another number of bytes, are rot if a second read finds the same. Bytes that cannot be read at all are
 * not: a store that is away ends the pass, and an object that only this read could not get may come back with its disk.
 */

export interface ScrubDeps {
  database: DataSource;
  storage: Storage;
  metrics: Pick<Metrics, 'scrubbed'>;
  /** Bytes a second; 0: nothing is checked. */
  scrubRate: number;
  scrubIntervalDays: number;
  log: Logger;
}

/** Blobs whose rows are read at a time. */
const BATCH = 200;

/**
 * @param signal stops the pass
 * @returns the pass, which returns the number of checked blobs
 */
export function createScrub(deps: ScrubDeps, signal: AbortSignal): () => Promise<number> {
  const { database } = deps;
  const throttle = createThrottle(deps.scrubRate, signal);
  return async () => {
    const opened = await openRound(database, deps.scrubIntervalDays);
    if (!opened) return 0;
    let round = opened;
    let checked = 0;
    for (;;) {
      const candidates = await listBlobsToScrub(database, round, BATCH);
      for (const [index, candidate] of candidates.entries()) {
        if (candidate.sha256 !== null) {
          await scrubBlob(deps, candidate, candidate.sha256, throttle, signal);
          checked++;
        } else if (index + 1 < candidates.length) continue;
        if (!(await advanceScrub(database, round, candidate.id))) return checked;
        round = { position: candidate.id };
      }
      if (candidates.length < BATCH) break;
    }
    await endRound(database);
    return checked;
  };
}

async function scrubBlob(
  deps: ScrubDeps,
  { id, blob }: ScrubCandidate,
  sha256: string,
  throttle: Throttle,
  signal: AbortSignal,
): Promise<void> {
  const look = async (): Promise<string | undefined> => {
    const found = await readBack(deps, blob, throttle, signal);
    return found === sha256 ? undefined : found;
  };
  try {
    const rot = (await look()) && (await look());
    deps.metrics.scrubbed(rot ? 'corrupted' : 'intact', blob.size);
    if (rot) {
      const files = await markCorrupted(deps.database, id, sha256, describe(rot, sha256));
      deps.log.error({ blobId: id, files, found: rot, sha256 }, 'stored bytes have changed');
    } else if ((await markIntact(deps.database, id, sha256)) > 0) {
      deps.log.info({ blobId: id }, 'stored bytes are right again');
    }
  } catch (error) {
    signal.throwIfAborted();
    await checkStorage(deps.storage);
    deps.metrics.scrubbed('unreadable', 0);
    deps.log.error({ err: error, blobId: id }, 'stored bytes cannot be read back');
  }
}

/** @returns the SHA-256 in hex, or why there is none: the object has another size */
async function readBack(
  { storage }: ScrubDeps,
  blob: ScrubCandidate['blob'],
  throttle: Throttle,
  signal: AbortSignal,
): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of addAbortSignal(signal, await openBlob(storage.blobs, blob))) {
      hash.update(chunk);
      await throttle(chunk.length);
    }
    return hash.digest('hex');
  } catch (error) {
    if (error instanceof AppError && error.code === 'size_mismatch') return error.detail ?? error.title;
    throw error;
  }
}

function describe(found: string, sha256: string): string {
  return /^[0-9a-f]{64}$/.test(found)
    ? `The SHA-256 of the stored bytes is ${found}; it was ${sha256}`
    : `${found}; their SHA-256 was ${sha256}`;
}
