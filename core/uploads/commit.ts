import { Upload } from '../database/entities/upload.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { Progress, Storage, StoredUpload } from '../storage/storage.js';
import type { CreationDeps } from './create.js';
import { LeaseLost, UploadEnded } from './errors.js';
import { LEASE_MS, type Lease } from './lease.js';
import { movedExpiry } from './queries.js';
import { quotaExceededBy, reserve } from './quota.js';
import { requireAllowedLength, type SizeLimits } from './size-limits.js';

/*
 * The ledger of uploads. Every protocol (tus, a plain POST, direct upload) takes a lease and calls create.ts,
 * receive.ts, settle.ts and end.ts; this file has the statements that they share.
 *
 * The upload's row is the truth. An offset is committed under the epoch of the lease, after the bytes before it are on
 * stable storage, and it never decreases. Once the offset has reached the length, the store makes the object of the
 * parts and the tail that the ledger names; until then no client is told that the upload is complete. Then one
 * statement writes the blob, the file row and the event. If the process dies before that, the next HEAD or the
 * reconciler goes on.
 */

export interface LedgerDeps extends CreationDeps {
  storage: Storage;
}

/**
 * Commits an upload's progress in one statement, so that offset, parts and tail can never contradict each other.
 * @throws {LeaseLost}
 */
export async function commitProgress(
  deps: Pick<LedgerDeps, 'database' | 'uploadExpiryHours' | 'metrics'>,
  lease: Lease,
  { offset, state, parts = [], untidy = false, objectKey }: Progress,
): Promise<void> {
  const [committed] = await queryEntities(
    deps.database.manager,
    Upload,
    `WITH committed AS (
       UPDATE uploads
       SET "offset" = $3, storage_state = coalesce($4, storage_state), object_key = coalesce($5, object_key),
           untidy = untidy OR $6, expires_at = ${movedExpiry('$7')},
           lease_expires_at = now() + $8 * interval '1 millisecond', error = NULL, failures = 0, retry_at = NULL
       WHERE id = $1 AND lease_epoch = $2 AND status = 'uploading' AND "offset" <= $3
       RETURNING *
     ), stored AS (
       INSERT INTO upload_parts (upload_id, number, size, etag)
       SELECT committed.id, part.* FROM committed, unnest($9::integer[], $10::bigint[], $11::text[]) AS part
     )
     SELECT * FROM committed`,
    [
      lease.id,
      lease.epoch,
      offset,
      state ? JSON.stringify(state) : null,
      objectKey ?? null,
      untidy,
      deps.uploadExpiryHours,
      LEASE_MS,
      parts.map((part) => part.number),
      parts.map((part) => part.size),
      parts.map((part) => part.etag),
    ],
  ).catch(async (error: unknown) => {
    // The statement may have been carried out, so it is not known which stored bytes the ledger names.
    await noteFailure(deps, lease);
    throw error;
  });
  if (!committed) throw new LeaseLost();
  deps.metrics?.bytesStored(offset - lease.upload.offset);
  lease.upload = committed;
}

/**
 * Sets the length of an upload that was created without one, and reserves room for all of it.
 * @param length bytes
 * @throws {AppError} quota_exceeded, too_large; {LeaseLost}
 */
export async function declareLength(
  deps: Pick<LedgerDeps, 'database' | 'quota' | keyof SizeLimits>,
  lease: Lease,
  length: number,
): Promise<void> {
  const { id, epoch } = lease;
  const { ownerId, maxSize, declaredType } = lease.upload;
  requireAllowedLength(deps, length, declaredType);
  if (maxSize !== null && length > maxSize) {
    throw new AppError('too_large', { detail: `This upload takes at most ${maxSize} bytes` });
  }
  const declared = await deps.database.transaction(async (manager) => {
    if ((await reserve(manager, deps.quota, lease, { target: length })) < length) {
      // All or nothing.
      await reserve(manager, deps.quota, lease, { target: null });
      return undefined;
    }
    const [row] = await queryEntities(
      manager,
      Upload,
      `UPDATE uploads SET length = $3
       WHERE id = $1 AND lease_epoch = $2 AND status = 'uploading' AND length IS NULL RETURNING *`,
      [id, epoch, length],
    );
    if (!row) throw new LeaseLost();
    return row;
  });
  if (!declared) throw await quotaExceededBy(deps.database, deps.quota, ownerId, length);
  lease.upload = declared;
}

/**
 * Marks an ended or finished upload for another cleanup. The process that ended it may have cleaned up the store
 * already, and this process's writes may arrive after that. Errors are ignored: the caller reports its own failure.
 */
export async function cleanUpAgain({ database }: Pick<LedgerDeps, 'database'>, id: string): Promise<void> {
  await execute(
    database,
    `UPDATE uploads SET untidy = true, discarded_at = CASE WHEN status = 'finished' THEN discarded_at END
       WHERE id = $1 AND status <> 'uploading'`,
    [id],
  ).catch(() => {});
}

/**
 * Records that after a failure the store may hold bytes that the ledger does not name. Errors are ignored: the caller
 * reports its own failure.
 * @param error why the object could not be made; undefined: something else failed
 */
export async function noteFailure(
  { database }: Pick<LedgerDeps, 'database'>,
  { id, epoch }: Lease,
  error?: Upload['error'],
): Promise<void> {
  await execute(
    database,
    'UPDATE uploads SET untidy = true, error = coalesce($3, error) WHERE id = $1 AND lease_epoch = $2',
    [id, epoch, error ? JSON.stringify(error) : null],
  ).catch(() => {});
}

/** Finds out whether a lease was lost because the upload was ended, so that the client does not retry. */
export async function explainLoss(
  { database }: Pick<LedgerDeps, 'database'>,
  id: string,
  error: LeaseLost,
): Promise<LeaseLost | UploadEnded> {
  const ended = await queryRows(
    database,
    `SELECT FROM uploads WHERE id = $1 AND status IN ('expired', 'terminated')`,
    [id],
  ).catch(() => []);
  return ended.length > 0 ? new UploadEnded(error) : error;
}

/** The part of an upload's row that the store needs. */
export function toStored({ storageKey, offset, length, storageState }: Upload): StoredUpload {
  return { key: storageKey, offset, length, state: storageState };
}
