import type { EntityManager } from 'typeorm';
import { within } from '../concurrency.js';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import { deleteUnreferencedBlobs } from '../files/blobs.js';
import { purgeFile } from '../files/status.js';
import { discardUploads } from './discard.js';
import type { LedgerDeps } from './ledger.js';
import { releaseQuota } from './quota.js';

/*
 * The end of uploads that somebody does not want, or not any more. One transaction makes it known and gives the room
 * back; then the row says what is to be deleted from the store. What its client has called it is forgotten.
 */

/** How long a deletion waits for the store, in milliseconds. The reconciler does what takes longer. */
const STORE_PATIENCE_MS = 3_000;

/**
 * Ends an upload and deletes its bytes; if it is finished already, its file too, for good. Once this has
 * returned, or even begun to delete, the upload never comes back. A store that is slow or away makes no failure of it: the
 * deletion is committed by then, and the reconciler deletes the bytes.
 * @param actor undefined: the system itself
 * @param returnToken id of the upload token that it was begun with, if that may begin another one
 * @throws {AppError} not_found, gone
 */
export async function terminateUpload(
  deps: Pick<LedgerDeps, 'database' | 'storage'>,
  id: string,
  actor?: Actor,
  { returnToken }: { returnToken?: string | undefined } = {},
): Promise<void> {
  const blobIds = await deps.database.transaction(async (manager) => {
    if (returnToken) {
      await manager.query('UPDATE upload_tokens SET used_at = NULL WHERE id = $1', [returnToken]);
    }
    const upload = await lock(manager, 'id = $1', id);
    if (!upload) throw new AppError('not_found');
    if (upload.status === 'expired' || upload.status === 'terminated') throw new AppError('gone');
    if (returnToken) await manager.query('UPDATE uploads SET upload_token_id = NULL WHERE id = $1', [id]);
    return end(manager, upload, actor);
  });
  const emptied = blobIds ? deleteUnreferencedBlobs(deps, blobIds) : discardUploads(deps, [id]);
  await within(STORE_PATIENCE_MS, emptied, 'deletion').catch(() => {});
}

/**
 * Ends the upload that was begun with an upload token, unless it is finished. Part of the caller's transaction, which has
 * locked the token. Whoever just sends gets no further; the reconciler deletes the bytes.
 */
export async function terminateUploadOf(
  manager: EntityManager,
  uploadTokenId: string,
  actor: Actor,
): Promise<void> {
  const upload = await lock(manager, `upload_token_id = $1 AND status = 'uploading'`, uploadTokenId);
  if (upload) await end(manager, upload, actor);
}

/**
 * Parts an upload token, which begins another upload, from the one before. The file that came of that was refused, and is
 * deleted: however often a guest tries, one refused file is kept. Part of the caller's transaction, which has locked the
 * token; the reconciler deletes the bytes.
 */
export async function endRefusedUploadOf(
  manager: EntityManager,
  uploadTokenId: string,
  actor: Actor,
): Promise<void> {
  const upload = await lock(manager, 'upload_token_id = $1', uploadTokenId);
  if (!upload) return;
  await manager.query('UPDATE uploads SET upload_token_id = NULL WHERE id = $1', [upload.id]);
  const isRefused = await manager.getRepository(File).existsBy({ id: upload.id, status: 'failed' });
  if (isRefused) await end(manager, upload, actor);
}

/** Not FOR UPDATE: a worker that is in the middle of this upload's file looks at the upload as its foreign key. */
async function lock(manager: EntityManager, condition: string, id: string): Promise<Upload | undefined> {
  const [upload] = await queryEntities(
    manager,
    Upload,
    `SELECT * FROM uploads WHERE ${condition} FOR NO KEY UPDATE`,
    [id],
  );
  return upload;
}

/**
 * Ends one that is under way or finished.
 * @returns of a finished one, ids of the blobs that lost a reference
 */
async function end(
  manager: EntityManager,
  { id, ownerId, status, reservedBytes }: Upload,
  actor: Actor | undefined,
): Promise<string[] | undefined> {
  await manager.query(
    `UPDATE uploads SET status = 'terminated', metadata = '{}', metadata_header = NULL, lease_holder = NULL,
       lease_epoch = lease_epoch + 1, failures = 0, retry_at = NULL,
       discarded_at = CASE WHEN status = 'finished' AND NOT untidy THEN now() END
     WHERE id = $1`,
    [id],
  );
  if (status === 'finished') return purgeFile(manager, id, actor);
  await releaseQuota(manager, ownerId, reservedBytes);
  await appendEvents(manager, [{ type: 'upload.terminated', subjectId: id, ownerId, actor }]);
  return undefined;
}
