import type { EntityManager } from 'typeorm';
import { within } from '../concurrency.js';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { Upload } from '../database/entities/upload.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import type { NewEvent, PurgeReason } from '../events/types.js';
import { deleteUnreferencedBlobs } from '../files/blobs.js';
import { overdueBy, type PurgeRule } from '../files/overdue.js';
import { purgeFile } from '../files/purge.js';
import { explainLoss, type LedgerDeps } from './commit.js';
import { FORGET_DESCRIPTION } from './description.js';
import { discardUploads } from './discard.js';
import { LeaseLost, UploadEnded } from './errors.js';
import type { Lease } from './lease.js';
import { getUpload } from './queries.js';

/*
 * How uploads end without a file: they are terminated, they expire (expire.ts), or the store loses their bytes. One
 * transaction ends the upload and gives the reserved room back, with its event. From then on its row says what is to be
 * deleted from the store.
 */

type EndDeps = Pick<LedgerDeps, 'database' | 'storage' | 'hooks'>;

/** How long a deletion waits for the store, in milliseconds. The reconciler does what takes longer. */
const STORE_PATIENCE_MS = 3_000;

/**
 * Ends an upload and deletes its bytes; if it is finished, deletes its file for good too. The end is committed before
 * any byte is deleted, so the upload never comes back. A store that is slow or away is therefore no failure: the
 * reconciler deletes the bytes later.
 * @param actor undefined: the system itself
 * @param lease of the upload, if the caller holds it: it ends too
 * @throws {AppError} not_found; {UploadEnded}; {UploadRefused} by a hook that only requests are subject to
 */
export async function terminateUpload(
  deps: EndDeps,
  id: string,
  actor?: Actor,
  lease?: Lease,
): Promise<void> {
  const ask = deps.hooks?.beforeEnd;
  if (ask && actor) await ask({ upload: lease?.upload ?? (await getUpload(deps.database, id)), actor });
  const blobIds = await deps.database.transaction(async (manager) => {
    const upload = await lock(manager, 'id = $1', id);
    if (!upload) throw new AppError('not_found');
    return end(manager, upload, actor);
  });
  lease?.leave();
  await emptyStore(deps, id, blobIds);
}

/**
 * Deletes a file for good that is overdue by a rule, on behalf of the system. A file that is not overdue any more stays as
 * it is: its user may have restored it since it was listed.
 * @returns whether the file was deleted
 */
export async function purgeOverdue(deps: EndDeps, id: string, rule: PurgeRule): Promise<boolean> {
  const blobIds = await deps.database.transaction(async (manager) => {
    const upload = await lock(manager, 'id = $1', id);
    const overdue = await queryRows(
      manager,
      `SELECT id FROM files WHERE id = $1 AND ${overdueBy(rule, '$2')} FOR UPDATE`,
      [id, rule.hours],
    );
    return upload && overdue.length > 0 ? end(manager, upload, undefined, rule.reason) : undefined;
  });
  if (blobIds) await emptyStore(deps, id, blobIds);
  return blobIds !== undefined;
}

/**
 * Ends an upload whose own request has failed, and deletes its bytes. No hook is asked.
 * @param tokenId the upload token that began this upload; it may begin another one
 * @throws {UploadEnded}
 */
export async function abandonUpload(
  deps: EndDeps,
  lease: Lease,
  actor: Actor,
  tokenId: string | undefined,
): Promise<void> {
  const { id } = lease;
  const blobIds = await deps.database.transaction(async (manager) => {
    if (tokenId) await returnToken(manager, tokenId);
    const upload = await lock(manager, 'id = $1', id);
    if (!upload) throw new UploadEnded();
    if (tokenId) await execute(manager, 'UPDATE uploads SET upload_token_id = NULL WHERE id = $1', [id]);
    return end(manager, upload, actor);
  });
  lease.leave();
  await emptyStore(deps, id, blobIds);
}

/**
 * Ends an upload that cannot become a file, mostly because a hook has refused to finish it; its row tells the owner why.
 * Its upload token may begin another one.
 * @throws {LeaseLost}; {UploadEnded}
 */
export async function refuseUpload(deps: EndDeps, lease: Lease, refusal: AppError): Promise<void> {
  const { uploadTokenId } = lease.upload;
  const error: Upload['error'] = { code: refusal.code, detail: refusal.message };
  const columns = `status = 'terminated', lease_holder = NULL, error = $3`;
  const data = { reason: refusal.message };
  try {
    await deps.database.transaction(async (manager) => {
      if (uploadTokenId) await returnToken(manager, uploadTokenId);
      const ended = await endUnder(manager, lease, columns, [JSON.stringify(error)]);
      if (ended.length === 0) throw new LeaseLost();
      await giveBack(manager, ended, (upload) => ({ type: 'upload.terminated', ...upload, data }));
    });
  } catch (lost) {
    throw lost instanceof LeaseLost ? await explainLoss(deps, lease.id, lost) : lost;
  }
  lease.leave();
  await emptyStore(deps, lease.id, undefined);
}

/**
 * Expires an upload whose acknowledged bytes are lost, so that its client is told and begins a new upload. Errors are
 * ignored: the caller reports the loss.
 */
export async function loseUpload({ database }: Pick<LedgerDeps, 'database'>, lease: Lease): Promise<void> {
  await database
    .transaction(async (manager) => {
      const lost = await endUnder(manager, lease, `status = 'expired'`, []);
      await giveBack(manager, lost, (upload) => ({
        type: 'upload.expired',
        ...upload,
        data: { reason: 'lost by the storage' },
      }));
    })
    .catch(() => {});
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
  await execute(manager, 'UPDATE uploads SET upload_token_id = NULL WHERE id = $1', [upload.id]);
  const isRefused = await manager.getRepository(File).existsBy({ id: upload.id, status: 'failed' });
  if (isRefused) await end(manager, upload, actor);
}

async function returnToken(manager: EntityManager, id: string): Promise<void> {
  await execute(manager, 'UPDATE upload_tokens SET used_at = NULL WHERE id = $1', [id]);
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
 * @param reason why the system deletes its file
 * @returns for an upload that has become a file, ids of the blobs that lost a reference
 * @throws {UploadEnded}
 */
async function end(
  manager: EntityManager,
  upload: Upload,
  actor: Actor | undefined,
  reason?: PurgeReason,
): Promise<string[] | undefined> {
  const { id, kind, status } = upload;
  if (status === 'expired' || status === 'terminated') throw new UploadEnded();
  await execute(
    manager,
    `UPDATE uploads SET status = 'terminated', ${FORGET_DESCRIPTION}, lease_holder = NULL,
       lease_epoch = lease_epoch + 1, failures = 0, retry_at = NULL,
       discarded_at = CASE WHEN status = 'finished' AND NOT untidy THEN now() END
     WHERE id = $1`,
    [id],
  );
  if (status === 'finished' && kind !== 'partial') return purgeFile(manager, id, actor, reason);
  // The room of a partial upload that was used belongs to a file.
  const held = status === 'finished' ? { ...upload, reservedBytes: 0 } : upload;
  await giveBack(manager, [held], (ended) => ({ type: 'upload.terminated', ...ended, actor }));
  return undefined;
}

/** Ends an upload that is under way, if the lease still holds. @returns the upload, or nothing */
function endUnder(
  manager: EntityManager,
  { id, epoch }: Lease,
  columns: string,
  values: unknown[],
): Promise<Upload[]> {
  return queryEntities(
    manager,
    Upload,
    `UPDATE uploads SET untidy = true, failures = 0, retry_at = NULL, ${columns}
     WHERE id = $1 AND lease_epoch = $2 AND status = 'uploading' RETURNING *`,
    [id, epoch, ...values],
  );
}

/**
 * Gives back the room of uploads that were under way, and appends an event for each.
 * @param ended their rows, which the caller's transaction has locked
 */
export async function giveBack(
  manager: EntityManager,
  ended: Upload[],
  toEvent: (upload: { subjectId: string; ownerId: string }) => NewEvent,
): Promise<void> {
  const owners = new Map<string, { bytes: number; files: number }>();
  for (const { kind, ownerId, reservedBytes } of ended) {
    const { bytes, files } = owners.get(ownerId) ?? { bytes: 0, files: 0 };
    owners.set(ownerId, { bytes: bytes + reservedBytes, files: files + (kind === 'partial' ? 0 : 1) });
  }
  const ids = [...owners.keys()];
  if (ids.length > 1) {
    await execute(manager, 'SELECT FROM users WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE', [ids]);
  }
  if (ids.length > 0) {
    await execute(
      manager,
      `UPDATE users SET used_bytes = used_bytes - bytes, used_files = used_files - files
       FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS held (owner_id, bytes, files)
       WHERE users.id = owner_id`,
      [ids, [...owners.values()].map(({ bytes }) => bytes), [...owners.values()].map(({ files }) => files)],
    );
  }
  await appendEvents(
    manager,
    ended.map(({ id, ownerId }) => toEvent({ subjectId: id, ownerId })),
  );
}

/** Deletes what an ended upload has left in the store. Waits a while for the store, and ignores its errors. */
async function emptyStore(deps: EndDeps, id: string, blobIds: string[] | undefined): Promise<void> {
  const emptied = blobIds ? deleteUnreferencedBlobs(deps, blobIds) : discardUploads(deps, [id]);
  await within(STORE_PATIENCE_MS, emptied, 'deletion').catch(() => {});
}
