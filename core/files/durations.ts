import type { EntityManager } from 'typeorm';
import { type Database, execute, queryRows } from '../database/rows.js';
import { nameOf, UNTOLD } from '../media/allowed.js';

/*
 * How long files took to be processed: the time that their steps took, without the time in the queue. Of each type and
 * class of sizes (powers of two) the table keeps 16 files. A further one takes the place of any other. So mostly recent ones
 * are there, the table stays small however many files there are, and workers that complete files of one kind at the same
 * time rarely write to the same row.
 */

const PLACES = 16;

/** The times of a class of sizes: medians. */
export interface Duration {
  /** Bytes. */
  size: number;
  /** Milliseconds of the steps that read the file, and of those that decode it. */
  readMs: number;
  decodeMs: number;
  /** How many files the medians are of. */
  files: number;
}

/** In order of size, by type (`image/png`), by range of types (`image/*`), and for all files (ALL). */
export type Durations = ReadonlyMap<string, readonly Duration[]>;

/** How long a file will probably take. */
export interface Expected {
  readMs: number;
  decodeMs: number;
  /** The types of the files whose times this goes by: a type, a range, or all. */
  types: string;
  /** How many files these are. */
  files: number;
}

const ALL = '*/*';

/** Stands behind the type of images that were optimised: that takes longer than all other steps. */
const OPTIMIZED = '; optimized';

/** A type with fewer files is estimated by its range. */
const ENOUGH = 5;

/** A file that is larger than every known one by more than this factor has no estimate. */
const FARTHEST = 16;

/**
 * Records how long the steps of a file took, which has just been completed. Part of the caller's transaction.
 * @param readingSteps names of the steps that read the file
 */
export async function recordDuration(
  manager: EntityManager,
  fileId: string,
  readingSteps: readonly string[],
): Promise<void> {
  await execute(
    manager,
    `WITH done AS (
       SELECT coalesce(detected_type, '')
                || CASE WHEN steps -> 'optimize' ->> 'state' = 'done' THEN '${OPTIMIZED}' ELSE '' END AS type,
              floor(log(2, greatest(size, 1)))::smallint AS size_class, size,
              round(coalesce(sum(ms) FILTER (WHERE name = ANY ($2)), 0)) AS read_ms,
              round(coalesce(sum(ms) FILTER (WHERE name <> ALL ($2)), 0)) AS decode_ms
       FROM files, LATERAL (
         SELECT name, (record ->> 'ms')::float8 AS ms FROM jsonb_each(steps) AS step (name, record)
       ) AS step
       WHERE id = $1 GROUP BY id
     ), free AS (
       SELECT number AS place FROM done, generate_series(0, ${PLACES - 1}) AS number
       WHERE NOT EXISTS (SELECT FROM processing_durations AS kept
                         WHERE kept.type = done.type AND kept.size_class = done.size_class AND kept.place = number)
       ORDER BY random() LIMIT 1
     )
     INSERT INTO processing_durations (type, size_class, place, size, read_ms, decode_ms)
     SELECT type, size_class, coalesce((SELECT place FROM free), floor(random() * ${PLACES})), size, read_ms, decode_ms
     FROM done
     ON CONFLICT (type, size_class, place)
       DO UPDATE SET size = excluded.size, read_ms = excluded.read_ms, decode_ms = excluded.decode_ms`,
    [fileId, readingSteps],
  );
}

const median = (column: string) => `percentile_cont(0.5) WITHIN GROUP (ORDER BY ${column})`;

/** Reads what recordDuration() has kept. */
export async function readDurations(database: Database): Promise<Durations> {
  const rows = await queryRows<Duration & { types: string }>(
    database,
    `SELECT CASE WHEN grouping(type) = 0 THEN type WHEN grouping(family) = 0 THEN family ELSE '${ALL}' END AS types,
            ${median('size')} AS size, ${median('read_ms')} AS "readMs", ${median('decode_ms')} AS "decodeMs",
            count(*)::integer AS files
     FROM (SELECT *, split_part(type, '/', 1) || '/*' || substring(type FROM ';.*|$') AS family
           FROM processing_durations) AS kept
     GROUP BY GROUPING SETS ((type, size_class), (family, size_class), (size_class))
     ORDER BY size_class`,
  );
  const durations = new Map<string, Duration[]>();
  for (const { types, ...duration } of rows) {
    durations.set(types, [...(durations.get(types) ?? []), duration]);
  }
  return durations;
}

/**
 * How long a file will probably take, by files of the same type, or of the same range of types if there are few of
 * those; a file of unknown type by all files.
 * @param type null: not known
 * @param size bytes
 * @param isOptimized whether it is an image that will be optimised; if no such images are known, the others count
 * @returns undefined: too little is known
 */
export function expectDuration(
  durations: Durations,
  type: string | null,
  size: number,
  isOptimized = false,
): Expected | undefined {
  if (isOptimized) {
    const expected = expectOf(durations, `${nameOf(type || UNTOLD)}${OPTIMIZED}`, size);
    if (expected) return expected;
  }
  return expectOf(durations, nameOf(type || UNTOLD), size);
}

/** @param name of a type, as the table has it */
function expectOf(durations: Durations, name: string, size: number): Expected | undefined {
  const known = durations.get(name) ?? [];
  const isEnough = countFiles(known) >= ENOUGH;
  const types = isEnough ? name : name === UNTOLD ? ALL : name.replace(/\/[^;]*/, '/*');
  const sizes = durations.get(types) ?? [];
  const times = interpolate(sizes, size);
  return times && { ...times, types, files: countFiles(sizes) };
}

function countFiles(durations: readonly Duration[]): number {
  return durations.reduce((sum, { files }) => sum + files, 0);
}

/** @param sizes in order of size */
function interpolate(
  sizes: readonly Duration[],
  size: number,
): Pick<Duration, 'readMs' | 'decodeMs'> | undefined {
  const above = sizes.find((one) => one.size >= size);
  const below = sizes.findLast((one) => one.size < size);
  if (!above) {
    // The time of the largest known ones, in proportion. It has a part that does not grow, so this is rather too long.
    const factor = below && below.size > 0 ? size / below.size : Number.POSITIVE_INFINITY;
    if (!below || factor > FARTHEST) return undefined;
    return { readMs: below.readMs * factor, decodeMs: below.decodeMs * factor };
  }
  // Smaller files than the known ones take at most as long.
  if (!below) return { readMs: above.readMs, decodeMs: above.decodeMs };
  const share = (size - below.size) / (above.size - below.size);
  const between = (a: number, b: number) => a + (b - a) * share;
  return {
    readMs: between(below.readMs, above.readMs),
    decodeMs: between(below.decodeMs, above.decodeMs),
  };
}
