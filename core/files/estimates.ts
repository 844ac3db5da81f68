import type { DataSource } from 'typeorm';
import { within } from '../concurrency.js';
import type { File } from '../database/entities/file.js';
import { queryRows } from '../database/rows.js';
import type { Logger } from '../log.js';
import { nameOf } from '../media/allowed.js';
import type { ImageSettings } from '../media/image-settings.js';
import { settingsFor, type TypeSettings } from '../media/optimized-types.js';
import { type Durations, type Expected, expectDuration, readDurations } from './durations.js';
import { isWaiting } from './steps.js';

/*
 * When a file will probably be processed: the time in the queue, and then the time of its steps. New files are processed
 * in the order in which they come, so a new file will wait about as long as the one that has waited longest until now.
 */

interface Estimate {
  /** Seconds from now until the processing ends; null: too little is known about files of this type and size. */
  seconds: number | null;
  /** Seconds of these that the file waits in the queue. */
  waitSeconds: number;
  /** The files whose times the estimate goes by; null: none. */
  basis: Pick<Expected, 'types' | 'files'> | null;
}

export interface Estimates {
  /**
   * For a file that is not here yet, or has just come. Never throws: nothing is known while the database is away.
   * @param type null: not known
   * @param size bytes
   * @param settings of the upload; null: none
   */
  forNewFile(type: string | null, size: number, settings: ImageSettings | null): Promise<Estimate>;
  /** Seconds until the processing of a file ends; null: not known, or it does not go on by itself. Never throws. */
  secondsLeft(file: File): Promise<number | null>;
  /** How long the steps take that decode a file, in milliseconds; undefined: not known. Never throws. */
  decodeMs(file: KnownFile): Promise<number | undefined>;
}

/** Numbers of the last two seconds are good enough. */
const FRESH_MS = 2_000;

/** How long a caller waits for newer numbers. */
const PATIENCE_MS = 500;

/** How many unfinished files are looked at for the one that has waited longest. */
const FIRST = 200;

/** The facts of a file by which its time is known. */
type KnownFile = Pick<File, 'detectedType' | 'declaredType' | 'size' | 'settings'>;

interface Recent {
  durations: Durations;
  /** When the pending file that has waited longest became pending; null: none is pending. */
  waitingSince: Date | null;
  /** Milliseconds since then. */
  waitMs: number;
}

const NOTHING: Recent = { durations: new Map(), waitingSince: null, waitMs: 0 };

/**
 * Opens the estimates of one process. They read the database when they are asked, and not each time.
 * @param byType as Config.optimize
 */
export function openEstimates(database: DataSource, log: Logger, byType: readonly TypeSettings[]): Estimates {
  let latest = NOTHING;
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    const [durations, waiting] = await Promise.all([readDurations(database), readWaiting(database)]);
    latest = { durations, ...waiting };
  }

  async function recent(): Promise<Recent> {
    if (!reading && performance.now() - readAt > FRESH_MS) {
      readAt = performance.now();
      reading = read()
        .catch((error: unknown) => log.debug({ err: error }, 'no recent durations'))
        .finally(() => {
          reading = undefined;
        });
    }
    if (reading) await within(PATIENCE_MS, reading, 'durations').catch(() => {});
    return latest;
  }

  async function expect({ detectedType, declaredType, size, settings }: KnownFile) {
    const type = detectedType ?? declaredType;
    const isOptimized = settingsFor(byType, nameOf(type ?? ''), settings) !== undefined;
    return expectDuration((await recent()).durations, type, size, isOptimized);
  }

  return {
    async forNewFile(type, size, settings) {
      const { waitMs } = await recent();
      const expected = await expect({ detectedType: null, declaredType: type, size, settings });
      return {
        seconds: expected ? toSeconds(waitMs + expected.readMs + expected.decodeMs) : null,
        waitSeconds: Math.round(waitMs / 1000),
        basis: expected ? { types: expected.types, files: expected.files } : null,
      };
    },
    async secondsLeft(file) {
      if (file.status === 'paused') return null;
      if (file.status === 'pending' || file.status === 'processing') {
        return leftOf(file, await expect(file), await recent());
      }
      return 0;
    },
    async decodeMs(file) {
      return (await expect(file))?.decodeMs;
    },
  };
}

async function readWaiting(database: DataSource): Promise<Pick<Recent, 'waitingSince' | 'waitMs'>> {
  // Ids come in the order of time, so the index has the oldest files first.
  const [row] = await queryRows<{ since: Date; ms: number }>(
    database,
    `SELECT updated_at AS since, (extract(epoch FROM now() - updated_at) * 1000)::float8 AS ms
     FROM (SELECT status, priority, updated_at FROM files WHERE status IN ('pending', 'processing')
           ORDER BY id LIMIT ${FIRST}) AS first
     WHERE status = 'pending' AND priority = 0 ORDER BY updated_at LIMIT 1`,
  );
  return { waitingSince: row?.since ?? null, waitMs: Math.max(0, row?.ms ?? 0) };
}

/** @param file that is pending or processing */
function leftOf(file: File, expected: Expected | undefined, { waitingSince }: Recent): number | null {
  const { status, priority, updatedAt, etaSeconds, error, steps } = file;
  const workMs = expected && expected.readMs + expected.decodeMs;
  if (status === 'pending') {
    // Files with a priority stand behind all new ones, those that are still to come included.
    if (workMs === undefined || priority !== 0) return null;
    const aheadMs = waitingSince ? Math.max(0, updatedAt.getTime() - waitingSince.getTime()) : 0;
    return toSeconds(aheadMs + workMs);
  }
  const since = Date.now() - updatedAt.getTime();
  if (etaSeconds !== null) return toSeconds(etaSeconds * 1000 - since);
  // It waits for its next attempt, or for an outside service. Otherwise it has just begun.
  if (error !== null || Object.values(steps).some(isWaiting) || workMs === undefined) return null;
  return toSeconds(workMs - since);
}

/** Work that goes on has a second left at least. */
function toSeconds(ms: number): number {
  return Math.max(1, Math.ceil(ms / 1000));
}
