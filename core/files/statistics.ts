import type { DataSource } from 'typeorm';
import type { FileStatus } from '../database/entities/file.js';
import { queryRows } from '../database/rows.js';

/*
 * Statistics of the files of one owner or of all, from the sums of totals.ts and the changes that are not in them yet.
 */

/** The owner whose files are counted; undefined: all owners. */
type OwnerId = string | undefined;

/** The condition of an owner in SQL. The parameter $1 stands in it in either case. */
const ofOwner = (ownerId: OwnerId) => (ownerId === undefined ? '$1::uuid IS NULL' : 'owner_id = $1');

export interface Amount {
  files: number;
  /** Of the files as they were sent, without thumbnails. */
  bytes: number;
}

export interface StatusTotal extends Amount {
  trashed: boolean;
  status: FileStatus;
}

/** How many files there are in each status, in the trash and outside of it. */
export async function sumByStatus(database: DataSource, ownerId: OwnerId): Promise<StatusTotal[]> {
  return queryRows(
    database,
    `SELECT trashed, status, sum(files)::float8 AS files, sum(bytes)::float8 AS bytes FROM (${totalsOf(ownerId)}) AS total
     GROUP BY trashed, status HAVING sum(files) <> 0`,
    [ownerId ?? null],
  );
}

export interface TypeTotal extends Amount {
  /** Null: unknown. */
  type: string | null;
}

/**
 * How many files outside the trash there are of each type, the most frequent first.
 * @returns at most `limit` types, and the sum of all others
 */
export async function sumByType(
  database: DataSource,
  ownerId: string,
  limit: number,
): Promise<{ types: TypeTotal[]; others: Amount & { types: number } }> {
  const rows = await queryRows<TypeTotal & { allTypes: number; allFiles: number; allBytes: number }>(
    database,
    `SELECT nullif(type, '') AS type, sum(files)::float8 AS files, sum(bytes)::float8 AS bytes,
            count(*) OVER ()::float8 AS "allTypes", sum(sum(files)) OVER ()::float8 AS "allFiles",
            sum(sum(bytes)) OVER ()::float8 AS "allBytes"
     FROM (${totalsOf(ownerId)}) AS total WHERE NOT trashed GROUP BY type HAVING sum(files) <> 0
     ORDER BY sum(files) DESC, type LIMIT $2`,
    [ownerId, limit],
  );
  const { allTypes = 0, allFiles = 0, allBytes = 0 } = rows[0] ?? {};
  const types = rows.map(({ type, files, bytes }) => ({ type, files, bytes }));
  const listed = sumOf(types);
  return {
    types,
    others: {
      types: allTypes - types.length,
      files: allFiles - listed.files,
      bytes: allBytes - listed.bytes,
    },
  };
}

/** The sum of amounts. */
export function sumOf(amounts: Amount[]): Amount {
  return amounts.reduce((sum, { files, bytes }) => ({ files: sum.files + files, bytes: sum.bytes + bytes }), {
    files: 0,
    bytes: 0,
  });
}

/**
 * The bytes that are not stored because files of one owner share them: the sizes of all files, those in the trash too, less
 * the sizes of their blobs. The database counts them as references come and go (migrations/1763981000002-saved-bytes.ts).
 */
export async function readSavedBytes(database: DataSource, ownerId: OwnerId): Promise<number> {
  const [all] = await queryRows<{ saved: number }>(
    database,
    'SELECT coalesce(sum(saved_bytes), 0)::float8 AS saved FROM users WHERE $1::uuid IS NULL OR id = $1',
    [ownerId ?? null],
  );
  return all?.saved ?? 0;
}

/** What became of files in one hour or several: those whose processing took about as long, or all. */
interface Outcome extends Amount {
  outcome: 'created' | 'completed' | 'failed' | 'infected';
  /** Class of the duration, see durationOf(); -1: not known. */
  msClass: number;
  /** Sum of the durations. */
  ms: number;
}

export interface DayStatistics {
  /** The full hour at which the figures begin, between 24 and 25 hours ago. */
  since: Date;
  hours: number;
  created: Amount;
  completed: Amount;
  failed: Amount;
  infected: Amount;
  /** Of the files whose processing ended, in whatever way; null if there were none. */
  averageMs: number | null;
  p95Ms: number | null;
}

/** What happened to files in the last day, in the trash too. */
export async function readLastDay(database: DataSource, ownerId: OwnerId): Promise<DayStatistics> {
  const rows = await queryRows<Outcome & { since: Date; hours: number }>(
    database,
    `WITH day AS (SELECT date_trunc('hour', now()) - interval '24 hours' AS since)
     SELECT since, (extract(epoch FROM now() - since) / 3600)::float8 AS hours, coalesce(outcome, 'created') AS outcome,
            coalesce(ms_class, -1) AS "msClass", coalesce(sum(files), 0)::float8 AS files,
            coalesce(sum(bytes), 0)::float8 AS bytes, coalesce(sum(ms), 0)::float8 AS ms
     FROM day LEFT JOIN LATERAL (
       SELECT outcome, ms_class, files, bytes, ms FROM file_hours WHERE ${ofOwner(ownerId)} AND hour >= since
       UNION ALL
       SELECT outcome, ms_class, files, bytes, ms FROM file_changes
       WHERE ${ofOwner(ownerId)} AND at >= since AND outcome IS NOT NULL
     ) AS one ON true
     GROUP BY since, outcome, ms_class`,
    [ownerId ?? null],
  );
  const sumWhere = (name: Outcome['outcome']) => sumOf(rows.filter(({ outcome }) => outcome === name));
  const timed = rows.filter(({ msClass }) => msClass >= 0);
  const { files } = sumOf(timed);
  const [{ since, hours } = { since: new Date(), hours: 24 }] = rows;
  return {
    since,
    hours,
    created: sumWhere('created'),
    completed: sumWhere('completed'),
    failed: sumWhere('failed'),
    infected: sumWhere('infected'),
    averageMs: files > 0 ? timed.reduce((sum, { ms }) => sum + ms, 0) / files : null,
    p95Ms: percentile(timed, 0.95),
  };
}

/**
 * The duration that a share of the files did not exceed. The classes make it right to a twentieth.
 * @returns milliseconds; null if there are no files
 */
export function percentile(classes: { msClass: number; files: number }[], share: number): number | null {
  let left = sumOf(classes.map(({ files }) => ({ files, bytes: 0 }))).files * share;
  for (const { msClass, files } of classes.toSorted((a, b) => a.msClass - b.msClass)) {
    left -= files;
    if (left <= 0) return durationOf(msClass);
  }
  return null;
}

/** The middle of a class of durations, in milliseconds. note_file_change() in the database puts them into classes. */
function durationOf(msClass: number): number {
  return 2 ** ((msClass - 0.5) / 8);
}

/** Sums and changes. */
const totalsOf = (ownerId: OwnerId) => `
  SELECT trashed, status, type, files, bytes FROM file_totals WHERE ${ofOwner(ownerId)}
  UNION ALL
  SELECT trashed, status, type, files, bytes FROM file_changes WHERE ${ofOwner(ownerId)}`;
