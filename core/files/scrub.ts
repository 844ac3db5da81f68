import type { DataSource } from 'typeorm';
import { File, type Problem } from '../database/entities/file.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import { type StoredBlob, storedBlob } from './blobs.js';

/*
 * The check of stored bytes against the SHA-256 of their files. It goes through the blobs by their ids, in rounds, and its
 * position is in the database. A file whose bytes have changed is not served; when they are right again, because an
 * operator has restored the object, the next check of the file says so.
 */

/** A blob that holds the bytes of files. */
export interface ScrubCandidate {
  id: string;
  /** Null: no file whose bytes were measured has it. */
  sha256: string | null;
  blob: StoredBlob;
}

interface Round {
  position: string | null;
}

/**
 * The round that is under way. Begins a new one when the last one began long enough ago.
 * @returns undefined if none is due
 */
export async function openRound(database: DataSource, intervalDays: number): Promise<Round | undefined> {
  const [round] = await queryRows<Round>(
    database,
    `UPDATE scrub SET
       began_at = CASE WHEN began_at IS NULL OR ended_at IS NOT NULL THEN now() ELSE began_at END,
       position = CASE WHEN ended_at IS NOT NULL THEN NULL ELSE position END,
       ended_at = NULL
     WHERE ended_at IS NULL OR began_at < now() - $1 * interval '1 day' RETURNING position`,
    [intervalDays],
  );
  return round;
}

/** The blobs behind a position. */
export async function listBlobsToScrub(
  database: DataSource,
  { position }: Round,
  limit: number,
): Promise<ScrubCandidate[]> {
  return queryRows(
    database,
    `SELECT b.id, ${storedBlob('b')} AS blob,
       (SELECT sha256 FROM files WHERE blob_id = b.id AND sha256 IS NOT NULL LIMIT 1) AS sha256
     FROM blobs AS b WHERE ($1::uuid IS NULL OR b.id > $1) ORDER BY b.id LIMIT $2`,
    [position, limit],
  );
}

/** @returns false if another worker has come further: then the caller must stop */
export async function advanceScrub(database: DataSource, { position }: Round, to: string): Promise<boolean> {
  const rows = await queryRows(
    database,
    'UPDATE scrub SET position = $2 WHERE position IS NOT DISTINCT FROM $1 AND ended_at IS NULL RETURNING position',
    [position, to],
  );
  return rows.length > 0;
}

/** All blobs were looked at: none was checked before the beginning of this round. */
export async function endRound(database: DataSource): Promise<void> {
  await execute(
    database,
    'UPDATE scrub SET ended_at = now(), complete_since = began_at WHERE ended_at IS NULL',
  );
}

/**
 * Records that the bytes of a blob are not those that were measured. Its files are refused from now on, with an event each.
 * @param sha256 hex; of the measurement
 * @returns how many files are corrupted by this
 */
export async function markCorrupted(
  database: DataSource,
  blobId: string,
  sha256: string,
  detail: string,
): Promise<number> {
  const warning: Problem = { step: 'scrub', code: 'corrupted', detail };
  return database.transaction(async (manager) => {
    const files = await queryEntities(
      manager,
      File,
      `UPDATE files SET corrupted_at = now(), warnings = warnings || $3::jsonb, updated_at = now()
       WHERE blob_id = $1 AND sha256 = $2 AND corrupted_at IS NULL RETURNING *`,
      [blobId, sha256, JSON.stringify([warning])],
    );
    await appendEvents(
      manager,
      files.map(({ id, ownerId }) => ({
        type: 'file.corrupted' as const,
        subjectId: id,
        ownerId,
        data: { detail },
      })),
    );
    return files.length;
  });
}

/** SQL assignments to a file whose bytes are right again. */
const INTACT = `corrupted_at = NULL, warnings = CASE WHEN corrupted_at IS NULL THEN warnings ELSE
  (SELECT coalesce(jsonb_agg(warning), '[]') FROM jsonb_array_elements(warnings) AS one (warning)
   WHERE warning ->> 'step' <> 'scrub') END`;

/** Records that the bytes of a blob are those that were measured. @returns how many files were corrupted until now */
export async function markIntact(database: DataSource, blobId: string, sha256: string): Promise<number> {
  const rows = await queryRows(
    database,
    `UPDATE files SET ${INTACT}, updated_at = now()
     WHERE blob_id = $1 AND sha256 = $2 AND corrupted_at IS NOT NULL RETURNING id`,
    [blobId, sha256],
  );
  return rows.length;
}

/** Whether there are files whose bytes have changed. */
export async function hasCorrupted(database: DataSource): Promise<boolean> {
  const [row] = await queryRows<{ found: boolean }>(
    database,
    'SELECT EXISTS (SELECT FROM files WHERE corrupted_at IS NOT NULL) AS found',
    [],
  );
  return row?.found ?? false;
}

/** Files whose bytes have changed, and how long ago the oldest check was; null: not all bytes have been checked yet. */
export async function readScrub(
  database: DataSource,
): Promise<{ corrupted: number; oldestSeconds: number | null }> {
  const [row] = await queryRows<{ corrupted: number; oldest: number | null }>(
    database,
    `SELECT (SELECT count(*) FROM files WHERE corrupted_at IS NOT NULL)::int AS corrupted,
       extract(epoch FROM now() - complete_since)::float8 AS oldest FROM scrub`,
    [],
  );
  return { corrupted: row?.corrupted ?? 0, oldestSeconds: row?.oldest ?? null };
}
