import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';

/** The uploads that a request may touch: all of one owner, or only the upload that was begun with a token. */
export interface UploadAccess {
  ownerId: string;
  /** Undefined: any. */
  uploadTokenId?: string | undefined;
}

/** Uploads with the status `uploading`, newest first. @param after id of the last upload of the page before */
export async function listUnfinishedUploads(
  database: DataSource,
  { ownerId, uploadTokenId }: UploadAccess,
  after: string | undefined,
  limit: number,
): Promise<Upload[]> {
  return queryEntities(
    database,
    Upload,
    `SELECT * FROM uploads
     WHERE owner_id = $1 AND status = 'uploading' AND ($2::uuid IS NULL OR id < $2)
       AND ($4::uuid IS NULL OR upload_token_id = $4)
     ORDER BY id DESC LIMIT $3`,
    [ownerId, after ?? null, limit, uploadTokenId ?? null],
  );
}

/** How many uploads of all owners are under way, and how many bytes of them have arrived. */
export async function countOpenUploads(
  database: DataSource,
): Promise<{ open: number; receivedBytes: number }> {
  const [row] = await queryRows<{ open: number; receivedBytes: number }>(
    database,
    `SELECT count(*)::float8 AS open, coalesce(sum("offset"), 0)::float8 AS "receivedBytes"
     FROM uploads WHERE status = 'uploading'`,
  );
  return row ?? { open: 0, receivedBytes: 0 };
}

/**
 * SQL expression for the new `expires_at` of an upload that has just received bytes. A time that is at most a
 * hundredth too early is kept: the column is in an index, so an update that changes it is no HOT update.
 * @param hours parameter of the statement: how long an upload without progress is kept
 */
export function movedExpiry(hours: string): string {
  const latest = `now() + ${hours} * interval '1 hour'`;
  return `CASE WHEN expires_at BETWEEN ${latest} - ${hours} * interval '36 seconds' AND ${latest}
               THEN expires_at ELSE ${latest} END`;
}

/**
 * Whether an upload is past its expiry although the reconciler has not expired it yet. A final upload has no expiry of
 * its own: it waits as long as its partial uploads do.
 */
export function isOverdue(upload: Upload): boolean {
  return (
    upload.status === 'uploading' &&
    upload.kind !== 'final' &&
    upload.offset !== upload.length &&
    upload.expiresAt < new Date()
  );
}

/** Whether the file of an upload is in the trash. */
export async function isTrashed(database: DataSource, id: string): Promise<boolean> {
  const found = await queryRows(database, 'SELECT FROM files WHERE id = $1 AND deleted_at IS NOT NULL', [id]);
  return found.length > 0;
}

/** An upload of any state and owner; the caller checks whether it may be seen. @throws {AppError} not_found */
export async function getUpload(database: DataSource, id: string): Promise<Upload> {
  const upload = await database.getRepository(Upload).findOneBy({ id });
  if (!upload) throw new AppError('not_found');
  return upload;
}

/** Maps ids of upload tokens to ids of the uploads that were begun with them. */
export async function mapTokensToUploads(
  database: DataSource,
  tokenIds: string[],
): Promise<Map<string, string>> {
  const uploads = await queryRows<{ id: string; upload_token_id: string }>(
    database,
    'SELECT id, upload_token_id FROM uploads WHERE upload_token_id = ANY ($1)',
    [tokenIds],
  );
  return new Map(uploads.map(({ id, upload_token_id }) => [upload_token_id, id]));
}
