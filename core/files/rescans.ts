import type { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../database/entities/event.js';
import { type Database, execute, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';

/*
 * Scans of stored files with the signatures of today. A row says which files are meant, and how far the scan has come: the
 * leading worker goes through the files by their ids, so in the order in which they were uploaded, and continues behind
 * `position` after a restart. Only files that can be read are scanned: all others are scanned before they can be read.
 */

/** Channel of PostgreSQL that tells the leading worker of a new rescan. */
export const RESCAN_WANTED = 'rescan_wanted';

export interface RescanFilter {
  /** Only files that were scanned with other signatures than those of today. */
  outdated?: boolean | undefined;
  /** Only files whose scan recorded a version that begins with this. */
  version?: string | undefined;
  /** Only files whose last scan was before this time (RFC 3339), or was not recorded. */
  scannedBefore?: string | undefined;
}

export interface Rescan {
  id: string;
  /** The only file; null: all that the filter lets pass. */
  fileId: string | null;
  filter: RescanFilter;
  /** Whether new signatures have caused it. */
  bySystem: boolean;
  /** The version of the scanner that caused it; null: an admin did. */
  signatures: string | null;
  state: 'running' | 'done' | 'canceled';
  /** Id of the last file that was looked at, and when its upload ended. */
  position: string | null;
  reachedAt: Date | null;
  /** Files, with those that turned out infected and without those that could not be scanned. */
  scanned: number;
  infected: number;
  failed: number;
  bytes: number;
  createdAt: Date;
  endedAt: Date | null;
}

const COLUMNS = `id, file_id AS "fileId", filter, by_system AS "bySystem", signatures, state, position,
  reached_at AS "reachedAt", scanned, infected, failed, bytes::float8 AS bytes, created_at AS "createdAt",
  ended_at AS "endedAt"`;

/** Ended rescans that are kept. */
const KEPT = 1000;

/**
 * Asks for a scan of one file.
 * @throws {AppError} wrong_state when the file cannot be read: then its processing scans it
 */
export async function rescanFile(
  database: DataSource,
  file: { id: string; clean: boolean },
  actor: Actor,
): Promise<Rescan> {
  if (!file.clean) {
    const detail = 'Only a file that was found clean can be scanned again by itself: process this one again';
    throw new AppError('wrong_state', { detail });
  }
  return required(await insert(database, { fileId: file.id, actor }));
}

/** Asks for a scan of all files that the filter lets pass. @throws {AppError} wrong_state when an admin's scan of files runs */
export async function rescanFiles(database: DataSource, filter: RescanFilter, actor: Actor): Promise<Rescan> {
  return required(await insert(database, { filter, actor }));
}

/**
 * Asks for a scan of the files that were scanned with other signatures than these, unless that was done before.
 * @returns false if there is nothing to do
 */
export async function rescanOutdated(database: DataSource, signatures: string): Promise<boolean> {
  const [last] = await queryRows<{ state: string; signatures: string }>(
    database,
    'SELECT state, signatures FROM rescans WHERE by_system ORDER BY id DESC LIMIT 1',
    [],
  );
  // One that runs compares each file with the signatures of its moment. The files before its position come with the next.
  if (last?.state === 'running' || last?.signatures === signatures) return false;
  return (await insert(database, { filter: { outdated: true }, signatures })) !== undefined;
}

/** @returns undefined if such a scan of many files runs already */
async function insert(
  database: DataSource,
  one: { fileId?: string; filter?: RescanFilter; signatures?: string; actor?: Actor },
): Promise<Rescan | undefined> {
  return database.transaction(async (manager) => {
    const [row] = await queryRows<Rescan>(
      manager,
      `INSERT INTO rescans (id, file_id, filter, by_system, signatures) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (by_system) WHERE state = 'running' AND file_id IS NULL DO NOTHING RETURNING ${COLUMNS}`,
      [
        uuidv7(),
        one.fileId ?? null,
        JSON.stringify(one.filter ?? {}),
        one.signatures !== undefined,
        one.signatures ?? null,
      ],
    );
    if (!row) return undefined;
    const data = { rescan: row.id };
    await appendEvents(manager, [
      { type: 'rescan.started', subjectId: row.fileId, ownerId: null, actor: one.actor, data },
    ]);
    await execute(
      manager,
      `DELETE FROM rescans WHERE id IN (SELECT id FROM rescans WHERE state <> 'running' ORDER BY id DESC OFFSET $1)`,
      [KEPT],
    );
    await execute(manager, `NOTIFY ${RESCAN_WANTED}`);
    return row;
  });
}

function required(rescan: Rescan | undefined): Rescan {
  if (rescan) return rescan;
  throw new AppError('wrong_state', { detail: 'Such a scan runs: wait for its end, or cancel it' });
}

/** Newest first. @param after id of the last one of the previous page */
export async function listRescans(
  database: DataSource,
  after: string | undefined,
  limit: number,
): Promise<Rescan[]> {
  return queryRows(
    database,
    `SELECT ${COLUMNS} FROM rescans WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2`,
    [after ?? null, limit],
  );
}

/** @throws {AppError} not_found */
export async function getRescan(database: Database, id: string): Promise<Rescan> {
  const [found] = await queryRows<Rescan>(database, `SELECT ${COLUMNS} FROM rescans WHERE id = $1`, [id]);
  if (!found) throw new AppError('not_found');
  return found;
}

/** The next file is not scanned any more. @throws {AppError} not_found; wrong_state when it has ended */
export async function cancelRescan(database: DataSource, id: string, actor: Actor): Promise<void> {
  await database.transaction(async (manager) => {
    const [canceled] = await queryRows(
      manager,
      `UPDATE rescans SET state = 'canceled', ended_at = now() WHERE id = $1 AND state = 'running' RETURNING id`,
      [id],
    );
    if (!canceled) {
      await getRescan(manager, id);
      throw new AppError('wrong_state', { detail: 'This scan has ended' });
    }
    await appendEvents(manager, [
      { type: 'rescan.canceled', subjectId: null, ownerId: null, actor, data: { rescan: id } },
    ]);
  });
}

/** The rescan that is next: one of a single file before those of many. */
export async function findRunning(database: DataSource): Promise<Rescan | undefined> {
  const [next] = await queryRows<Rescan>(
    database,
    `SELECT ${COLUMNS} FROM rescans WHERE state = 'running' ORDER BY file_id IS NULL, id LIMIT 1`,
    [],
  );
  return next;
}

/** A file that a rescan comes to. */
export interface RescanCandidate {
  id: string;
  createdAt: Date;
  /** Whether it can be read, and the filter lets it pass. */
  isMeant: boolean;
}

/**
 * The files behind a rescan's position. They are read in any case, so that a filter which lets few files pass does not
 * search long; `isMeant` says which count.
 * @param version of the scanner now
 */
export async function listCandidates(
  database: DataSource,
  { fileId, filter, position, createdAt }: Rescan,
  version: string | null,
  limit: number,
): Promise<RescanCandidate[]> {
  return queryRows(
    database,
    `SELECT id, created_at AS "createdAt",
       (clean AND created_at < $4
       AND ($5::text IS NULL OR metadata -> 'scan' ->> 'version' IS DISTINCT FROM $5)
       AND ($6::text IS NULL OR starts_with(metadata -> 'scan' ->> 'version', $6))
       AND ($7::timestamptz IS NULL OR coalesce((metadata -> 'scan' ->> 'at')::timestamptz < $7, true))) IS TRUE AS "isMeant"
     FROM files
     WHERE ($1::uuid IS NULL OR id = $1) AND ($2::uuid IS NULL OR id > $2)
     ORDER BY id LIMIT $3`,
    [
      fileId,
      position,
      limit,
      createdAt,
      filter.outdated ? version : null,
      filter.version ?? null,
      filter.scannedBefore ?? null,
    ],
  );
}

/**
 * Records that a rescan has come to a file.
 * @returns false if it was canceled, or another worker has come further: then the caller must stop
 */
export async function advance(
  database: DataSource,
  { id, position }: Pick<Rescan, 'id' | 'position'>,
  to: RescanCandidate,
  found: { scanned?: number; infected?: number; failed?: number; bytes?: number } = {},
): Promise<boolean> {
  const rows = await queryRows(
    database,
    `UPDATE rescans SET position = $3, reached_at = $4, scanned = scanned + $5, infected = infected + $6,
       failed = failed + $7, bytes = bytes + $8
     WHERE id = $1 AND position IS NOT DISTINCT FROM $2 AND state = 'running' RETURNING id`,
    [
      id,
      position,
      to.id,
      to.createdAt,
      found.scanned ?? 0,
      found.infected ?? 0,
      found.failed ?? 0,
      found.bytes ?? 0,
    ],
  );
  return rows.length > 0;
}

/** All files were looked at. */
export async function endRescan(database: DataSource, id: string): Promise<void> {
  await execute(
    database,
    `UPDATE rescans SET state = 'done', ended_at = now() WHERE id = $1 AND state = 'running'`,
    [id],
  );
}
