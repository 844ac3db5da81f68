import type { DataSource } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';

/** Uploads of this owner that are not finished, newest first. @param after id of the last one of the page before */
export async function listUnfinishedUploads(
  database: DataSource,
  ownerId: string,
  after: string | undefined,
  limit: number,
): Promise<Upload[]> {
  return queryEntities(
    database.manager,
    Upload,
    `SELECT * FROM uploads WHERE owner_id = $1 AND status = 'uploading' AND ($2::uuid IS NULL OR id < $2)
     ORDER BY id DESC LIMIT $3`,
    [ownerId, after ?? null, limit],
  );
}

/** Whether its time is over, though no reconciler has come by yet. */
export function isOverdue(upload: Upload): boolean {
  return upload.status === 'uploading' && upload.offset !== upload.length && upload.expiresAt < new Date();
}

/** An upload of this owner, in whatever state. @throws {AppError} not_found */
export async function getUpload(database: DataSource, ownerId: string, id: string): Promise<Upload> {
  const upload = await database.getRepository(Upload).findOneBy({ id, ownerId });
  if (!upload) throw new AppError('not_found');
  return upload;
}
