import type { DataSource, EntityManager } from 'typeorm';
import { Derivative } from '../database/entities/derivative.js';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { execute, queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import type { PurgeReason } from '../events/types.js';
import { releaseQuota } from '../uploads/quota.js';
import { stopAttempt } from './attempt.js';
import { releaseBlobs } from './blobs.js';
import { dropVariants } from './variants.js';

/* The end of a file: into the trash, or for good. */

/**
 * Puts a file into the trash. Its bytes stay stored, but they no longer count against the quota. Its processing goes on,
 * because the file may be restored.
 * @throws {AppError} not_found
 */
export async function trashFile(database: DataSource, id: string, actor: Actor): Promise<void> {
  await database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      `UPDATE files SET deleted_at = now(), updated_at = now() WHERE id = $1 AND deleted_at IS NULL RETURNING *`,
      [id],
    );
    if (!file) throw new AppError('not_found');
    await releaseQuota(manager, file.ownerId, file.size);
    await appendEvents(manager, [{ type: 'file.deleted', subjectId: id, ownerId: file.ownerId, actor }]);
  });
}

/**
 * Removes the rows of a file, of its derivatives and of its variants, in the caller's transaction.
 * @param actor undefined: the system itself
 * @param reason why the system does it
 * @returns ids of the blobs that lost a reference, for deleteUnreferencedBlobs after the commit
 */
export async function purgeFile(
  manager: EntityManager,
  id: string,
  actor: Actor | undefined,
  reason?: PurgeReason,
): Promise<string[]> {
  // Lock the file first, as recordSteps does: a step that is being recorded adds derivatives that must be removed too.
  await execute(manager, 'SELECT FROM files WHERE id = $1 FOR UPDATE', [id]);
  const derivatives = await queryEntities(
    manager,
    Derivative,
    'DELETE FROM derivatives WHERE file_id = $1 RETURNING *',
    [id],
  );
  const [file] = await queryEntities(manager, File, 'DELETE FROM files WHERE id = $1 RETURNING *', [id]);
  if (!file) return [];
  const variants = await dropVariants(manager, id);
  const blobIds = [file.blobId, ...derivatives.map((derivative) => derivative.blobId)];
  await releaseBlobs(manager, blobIds);
  if (file.status === 'processing') await stopAttempt(manager, file);
  // A file in the trash does not count against the quota.
  if (!file.deletedAt) await releaseQuota(manager, file.ownerId, file.size);
  const data = reason ? { reason } : {};
  await appendEvents(manager, [{ type: 'file.purged', subjectId: id, ownerId: file.ownerId, actor, data }]);
  return [...blobIds, ...variants];
}
