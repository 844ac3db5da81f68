import type { DataSource } from 'typeorm';
import { Blob } from '../database/entities/blob.js';
import { Derivative } from '../database/entities/derivative.js';
import { File } from '../database/entities/file.js';
import { queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { type StoredBlob, storedBlob } from './blobs.js';

/**
 * One file of any owner; the caller checks whether it may be seen.
 * @param options.trashed also look in the trash
 * @throws {AppError} not_found
 */
export async function getFile(
  database: DataSource,
  id: string,
  options: { trashed?: boolean } = {},
): Promise<File> {
  const file = await findFile(database, id, options);
  if (!file) throw new AppError('not_found');
  return file;
}

/** Like getFile, but returns undefined when there is no such file. */
export async function findFile(
  database: DataSource,
  id: string,
  options: { trashed?: boolean } = {},
): Promise<File | undefined> {
  const [file] = await queryEntities(
    database,
    File,
    'SELECT * FROM files WHERE id = $1 AND ($2 OR deleted_at IS NULL)',
    [id, options.trashed ?? false],
  );
  return file;
}

/** The blob that holds a file's bytes. */
export async function getBlob(database: DataSource, file: File): Promise<Blob> {
  return database.getRepository(Blob).findOneByOrFail({ id: file.blobId });
}

export type StoredDerivative = Derivative & { blob: StoredBlob };

/** Derivatives of many files at once, with their blobs, in the order of their names. */
export async function listDerivatives(database: DataSource, fileIds: string[]): Promise<StoredDerivative[]> {
  return database
    .getRepository(Derivative)
    .createQueryBuilder('d')
    .innerJoin(Blob, 'b', 'b.id = d.blobId')
    .select([
      'd.file_id AS "fileId"',
      'd.name AS name',
      'd.blob_id AS "blobId"',
      'd.content_type AS "contentType"',
    ])
    .addSelect(['d.width AS width', 'd.height AS height', `${storedBlob('b')} AS blob`])
    .where('d.file_id = ANY (:fileIds)', { fileIds })
    .orderBy('d.name')
    .getRawMany();
}

/** A file whose status is `pending` or `processing`. */
export type UnfinishedFile = Pick<File, 'id' | 'run' | 'priority' | 'size'>;

/** Files that are `pending` or `processing`, in order of id. @param after id to continue after */
export async function listUnfinished(
  database: DataSource,
  after: string | undefined,
  limit: number,
): Promise<UnfinishedFile[]> {
  return queryRows(
    database,
    `SELECT id, run, priority, size::float8 AS size FROM files WHERE status IN ('pending', 'processing') AND ($1::uuid IS NULL OR id > $1)
     ORDER BY id LIMIT $2`,
    [after ?? null, limit],
  );
}

/** How many files are `pending` or `processing`. @param leastAgeMs younger files do not count */
export async function countUnfinished(database: DataSource, leastAgeMs: number): Promise<number> {
  const [row] = await queryRows<{ count: number }>(
    database,
    `SELECT count(*)::int AS count FROM files
     WHERE status IN ('pending', 'processing') AND created_at < now() - $1 * interval '1 millisecond'`,
    [leastAgeMs],
  );
  return row?.count ?? 0;
}
