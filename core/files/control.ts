import type { DataSource, EntityManager } from 'typeorm';
import type { Quota } from '../config.js';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { countChanged, queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import { checkFilename } from '../uploads/description.js';
import { hasRoom, quotaExceededBy } from '../uploads/quota.js';

/* What a user does with a file, apart from changes of its status (status.ts) and its end (purge.ts). */

/**
 * Gives a file another name. The rules for names are those of the creation.
 * @returns the file as it is now
 * @throws {AppError} invalid_request; not_found when it is not there or in the trash
 */
export async function renameFile(
  database: DataSource,
  id: string,
  wanted: string,
  actor: Actor,
): Promise<File> {
  const { filename, warnings } = checkFilename(wanted);
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      `UPDATE files
       SET filename = $2, warnings = CASE WHEN warnings @> $3::jsonb THEN warnings ELSE warnings || $3::jsonb END,
           updated_at = now()
       WHERE id = $1 AND deleted_at IS NULL RETURNING *`,
      [id, filename, JSON.stringify(warnings)],
    );
    if (!file) throw new AppError('not_found');
    await appendEvents(manager, [{ type: 'file.renamed', subjectId: id, ownerId: file.ownerId, actor }]);
    return file;
  });
}

/**
 * Takes a file out of the trash, if its owner has room for it again.
 * @returns the file as it is now
 * @throws {AppError} not_found; wrong_state when it is not in the trash; quota_exceeded, and it stays in the trash
 */
export async function restoreFile(
  { database, quota }: { database: DataSource; quota: Quota },
  id: string,
  actor: Actor,
): Promise<File> {
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(manager, File, 'SELECT * FROM files WHERE id = $1 FOR UPDATE', [id]);
    if (!file) throw new AppError('not_found');
    if (!file.deletedAt) throw new AppError('wrong_state', { detail: 'The file is not in the trash' });
    if (!(await takeRoom(manager, quota, file))) {
      throw await quotaExceededBy(manager, quota, file.ownerId, file.size);
    }
    const [restored] = await queryEntities(
      manager,
      File,
      'UPDATE files SET deleted_at = NULL, updated_at = now() WHERE id = $1 RETURNING *',
      [id],
    );
    if (!restored) throw new AppError('not_found');
    await appendEvents(manager, [{ type: 'file.restored', subjectId: id, ownerId: file.ownerId, actor }]);
    return restored;
  });
}

/** Counts a file against the quota of its owner. @returns false if there is no room for it */
async function takeRoom(manager: EntityManager, quota: Quota, { ownerId, size }: File): Promise<boolean> {
  const room = hasRoom({ bytes: '$2', files: '1', quotaBytes: '$3', quotaFiles: '$4' });
  const changed = await countChanged(
    manager,
    `UPDATE users SET used_bytes = used_bytes + $2::bigint, used_files = used_files + 1 WHERE id = $1 AND ${room}`,
    [ownerId, size, quota.bytes, quota.files],
  );
  return changed > 0;
}
