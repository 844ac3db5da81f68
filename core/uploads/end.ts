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
import { FORGET_DESCRIPTION } from './description.js';
import { discardUploads } from './discard.js';
import type { LedgerDeps } from './ledger.js';
import { releaseQuota } from './quota.js';

/*
 * Termination of uploads that nobody wants any more. One transaction ends the upload, clears its metadata and gives
 * the reserved room back. From then on its row says what is to be deleted from the store.
 */

/** How long a deletion waits for the store, in milliseconds. The reconciler does what takes longer. */
const STORE_PATIENCE_MS = 3_000;

/**
 * Ends an upload and deletes its bytes; if it is finished, deletes its file for good too. The end is committed before
 * any byte is deleted, so the upload never comes back. A store that is slow or away is therefore no failure: the
 * reconciler deletes the bytes later.
 * @param actor undefined: the system itself
 * @param returnToken id of the upload token that began this upload, if the token may begin another upload
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
 * Ends the upload that was begun with an upload token, unless it is finished. Part of the caller's transaction, which
 * has locked the token. A request that is still sending loses its lease; the reconciler deletes the bytes.
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
 * Detaches an upload token, which begins another upload, from its previous upload. If the file of that upload was
 * refused, the file is deleted: however often a guest tries, only the last refused file is kept. Part of the
 * caller's transaction, which has locked the token; the reconciler deletes the bytes.
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

/** Not FOR UPDATE: that would conflict with a worker whose statement checks the file's foreign key to the upload. */
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
 * Ends an upload that is under way or finished.
 * @returns for a finished upload, ids of the blobs that lost a reference
 */
async function end(
  manager: EntityManager,
  { id, ownerId, status, reservedBytes }: Upload,
  actor: Actor | undefined,
): Promise<string[] | undefined> {
  await manager.query(
    `UPDATE uploads SET status = 'terminated', ${FORGET_DESCRIPTION}, lease_holder = NULL,
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
