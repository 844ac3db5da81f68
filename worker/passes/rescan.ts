import { addAbortSignal } from 'node:stream';
import type { DataSource } from 'typeorm';
import type { File } from '../../core/database/entities/file.js';
import { execute } from '../../core/database/rows.js';
import { openBlob } from '../../core/files/blobs.js';
import { quarantineBlob } from '../../core/files/quarantine.js';
import { findFile, getBlob } from '../../core/files/queries.js';
import {
  advance,
  endRescan,
  findRunning,
  listCandidates,
  type Rescan,
  type RescanCandidate,
  rescanOutdated,
} from '../../core/files/rescans.js';
import { infectReadable } from '../../core/files/status.js';
import type { Logger } from '../../core/log.js';
import type { Metrics } from '../../core/metrics/metrics.js';
import { type Scanner, ScannerLost, type ScanResult } from '../../core/scanning/scanner.js';
import { checkStorage } from '../../core/storage/check.js';
import type { Storage } from '../../core/storage/storage.js';
import { scanMetadata } from '../steps/scan.js';
import { createThrottle, type Throttle } from './throttle.js';

/*
 * Scans stored files again, one after the other and at a set rate, so that uploads and their processing come first. A scan
 * changes nothing but the record of the scan, unless it finds a threat.
 *
 * A scanner or a store that is away ends the pass; the next one goes on with the same file.
 */

export interface RescanDeps {
  database: DataSource;
  storage: Storage;
  scanner: Scanner;
  metrics: Pick<Metrics, 'rescanned'>;
  /** Bytes a second. */
  rescanRate: number;
  /** Whether new signatures cause a scan of all files. */
  rescanNew: boolean;
  log: Logger;
}

/** Files whose rows are read at a time. */
const BATCH = 500;

/** How often the scanner may die of a file before the file is passed over. */
const MAX_LOST = 3;

type Outcome = { outcome: 'clean' | 'infected' | 'failed'; bytes: number };

/**
 * @param signal stops the pass
 * @returns the pass, which returns the number of scanned files
 */
export function createRescans(deps: RescanDeps, signal: AbortSignal): () => Promise<number> {
  const throttle = createThrottle(deps.rescanRate, signal);
  /** Of the file that is being scanned. */
  let lost = { id: '', times: 0 };

  async function scanOne(candidate: RescanCandidate): Promise<Outcome | undefined> {
    try {
      return await rescanFile(deps, candidate.id, throttle, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof ScannerLost) {
        lost = { id: candidate.id, times: lost.id === candidate.id ? lost.times + 1 : 1 };
        if (lost.times < MAX_LOST) throw error;
      } else {
        // If one of them is away, this says nothing about the file.
        await deps.scanner.version(signal);
        await checkStorage(deps.storage);
      }
      deps.log.error({ err: error, fileId: candidate.id }, 'a stored file cannot be scanned again');
      return { outcome: 'failed', bytes: 0 };
    }
  }

  /** Goes through one batch. @returns how many files were scanned, and the rescan as it is then; undefined: stop */
  async function runBatch(rescan: Rescan): Promise<{ scanned: number; rescan?: Rescan }> {
    const version = await deps.scanner.version(signal);
    const candidates = await listCandidates(deps.database, rescan, version, BATCH);
    let scanned = 0;
    let at = rescan;
    for (const [index, candidate] of candidates.entries()) {
      const result = candidate.isMeant ? await scanOne(candidate) : undefined;
      if (!result && index + 1 < candidates.length) continue;
      const { outcome, bytes } = result ?? { outcome: undefined, bytes: 0 };
      const counts = {
        scanned: outcome && outcome !== 'failed' ? 1 : 0,
        infected: outcome === 'infected' ? 1 : 0,
        failed: outcome === 'failed' ? 1 : 0,
        bytes,
      };
      if (outcome) deps.metrics.rescanned(outcome);
      scanned += counts.scanned;
      if (!(await advance(deps.database, at, candidate, counts))) return { scanned };
      at = { ...at, position: candidate.id };
      // A scan of a single file comes first.
      if (at.fileId === null && scanned > 0) return { scanned, rescan: at };
    }
    if (candidates.length < BATCH) await endRescan(deps.database, rescan.id);
    return { scanned, rescan: at };
  }

  return async () => {
    if (deps.rescanNew) {
      const version = await deps.scanner.version(signal);
      if (version !== null) await rescanOutdated(deps.database, version);
    }
    let scanned = 0;
    for (let next = await findRunning(deps.database); next; next = await findRunning(deps.database)) {
      if (signal.aborted) break;
      const done = await runBatch(next);
      scanned += done.scanned;
      if (!done.rescan) break;
    }
    return scanned;
  };
}

/** @returns undefined if the file is gone, or cannot be read any more */
async function rescanFile(
  deps: RescanDeps,
  id: string,
  throttle: Throttle,
  signal: AbortSignal,
): Promise<Outcome | undefined> {
  const file = await findFile(deps.database, id, { trashed: true });
  if (!file?.clean) return undefined;
  const blob = await getBlob(deps.database, file);
  const ended = new AbortController();
  try {
    const scan = deps.scanner.begin(file.size, AbortSignal.any([signal, ended.signal]));
    for await (const chunk of addAbortSignal(signal, await openBlob(deps.storage.blobs, blob))) {
      await scan.push(chunk);
      await throttle(chunk.length);
    }
    return { outcome: await record(deps, file, await scan.end()), bytes: file.size };
  } finally {
    ended.abort();
  }
}

async function record(deps: RescanDeps, file: File, result: ScanResult): Promise<Outcome['outcome']> {
  const { verdict, version } = result;
  const metadata = scanMetadata(version);
  if (verdict.kind === 'too_large') return 'failed';
  if (verdict.kind === 'clean') {
    await execute(
      deps.database,
      'UPDATE files SET metadata = metadata || $3::jsonb WHERE id = $1 AND blob_id = $2 AND clean',
      [file.id, file.blobId, JSON.stringify(metadata)],
    );
    return 'clean';
  }
  const error = { step: 'scan', code: 'infected', detail: `Found: ${verdict.threat}` };
  const infected = await deps.database.transaction((manager) =>
    infectReadable(manager, file, { error, metadata }),
  );
  deps.log.warn({ fileId: file.id, files: infected.length }, 'a stored file is infected');
  for (const blobId of new Set(infected.map((one) => one.blobId))) {
    // What fails here, the reconciler does.
    await quarantineBlob(deps, blobId).catch((err: unknown) => deps.log.warn({ err }, 'quarantine'));
  }
  return 'infected';
}
