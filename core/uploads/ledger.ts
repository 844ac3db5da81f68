import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import { insertFile } from '../files/status.js';
import type { AppendControl, Part, Progress, Storage, StoredUpload } from '../storage/storage.js';
import type { CreationDeps } from './create.js';
import { LEASE_MS } from './lease.js';
import { movedExpiry } from './queries.js';
import { quotaExceededBy, releaseQuota, reserve } from './quota.js';

/*
 * The ledger of uploads: create (uploads/create.ts), append, finish, terminate (uploads/end.ts). Every protocol (tus, a plain
 * POST, direct upload) only calls these.
 *
 * The row is the truth. An offset is committed after the bytes before it are on stable storage, under the epoch
 * of the lease, and only ever grows. Once the offset has reached the length, the object is made of what the ledger
 * names; until then no client is told that all is there. Then one transaction writes the blob, the file row and the
 * event. If the process dies before, the next HEAD or the reconciler goes on.
 */

export interface LedgerDeps extends CreationDeps {
  storage: Storage;
}

/**
 * Sets the length of an upload that was created without one, and reserves room for all of it.
 * @returns the upload with its length
 * @throws {AppError} locked, quota_exceeded, too_large
 */
export async function declareLength(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  length: number,
): Promise<Upload> {
  const { id, ownerId, maxSize } = upload;
  if (maxSize !== null && length > maxSize) {
    throw new AppError('too_large', { detail: `This upload takes at most ${maxSize} bytes` });
  }
  const declared = await deps.database.transaction(async (manager) => {
    if ((await reserve(manager, deps.quota, id, epoch, { target: length })) < length) {
      // All or nothing.
      await reserve(manager, deps.quota, id, epoch, { target: null });
      return undefined;
    }
    const [row] = await queryEntities(
      manager,
      Upload,
      `UPDATE uploads SET length = $3
       WHERE id = $1 AND lease_epoch = $2 AND status = 'uploading' AND length IS NULL RETURNING *`,
      [id, epoch, length],
    );
    if (!row) throw leaseLost();
    return row;
  });
  if (!declared) throw await quotaExceededBy(deps.database, deps.quota, ownerId, length);
  return declared;
}

/**
 * Appends what `source` yields behind the upload's offset. If that brings the last byte, the object is made too.
 * @param upload as it was when the lease was taken
 * @param control its `hurry` aborts when somebody waits for the lease
 * @returns the upload as it is then; bytes before its offset survive a power cut
 * @throws {AppError} locked when another request has taken the lease; gone when it was ended; storage_full, unavailable
 */
export async function appendToUpload(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  source: AsyncIterable<Uint8Array>,
  control: AppendControl = {},
): Promise<Upload> {
  if (upload.direct) {
    throw new AppError('wrong_state', { detail: 'The parts of this upload are sent to the storage itself' });
  }
  let present = upload;
  if (upload.offset === upload.length) {
    // Nothing can follow. The source is still read, so that a body that is too long is noticed by its limiter.
    for await (const _ of source);
  } else {
    const commit = async (progress: Progress) => {
      present = await commitProgress(deps, upload.id, epoch, progress);
    };
    await deps.storage.uploads
      .append(toStored(upload), source, commit, control)
      .catch(async (error: unknown) => {
        if (!isLeaseLost(error)) return endIfLost(deps, upload, epoch, error);
        await tidyAgain(deps, upload.id);
        throw await toldOfLoss(deps, upload.id, error);
      });
  }
  return present.offset === present.length ? completeUpload(deps, present, epoch, control.hurry) : present;
}

/**
 * Writes how far an upload has come: one statement, so that offset, parts and tail can never contradict each other.
 * @throws {AppError} locked
 */
export async function commitProgress(
  deps: LedgerDeps,
  id: string,
  epoch: number,
  { offset, state, parts = [], untidy = false, objectKey }: Progress,
): Promise<Upload> {
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
      id,
      epoch,
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
    // Nobody knows whether it was carried out, and so what of the store the ledger names.
    await noteFailure(deps, id, epoch);
    throw error;
  });
  if (!committed) throw leaseLost();
  return committed;
}

/**
 * Makes the object of an upload whose bytes are all here, unless it is made already. May be called again and again. Why
 * it failed stands in the upload, for its owner.
 * @param upload as it is under this lease
 * @returns the upload with its object
 * @throws {AppError} locked; gone; unavailable; size_mismatch when acknowledged bytes are gone
 */
export async function completeUpload(
  deps: LedgerDeps,
  upload: Upload,
  epoch: number,
  signal?: AbortSignal,
): Promise<Upload> {
  if (upload.objectKey !== null) return upload;
  const parts: Part[] = await deps.database.query(
    'SELECT number, size::float8 AS size, etag FROM upload_parts WHERE upload_id = $1 ORDER BY number',
    [upload.id],
  );
  try {
    const made = await deps.storage.uploads
      .complete(toStored(upload), parts, signal)
      .catch(async (error: unknown) => {
        await noteFailure(deps, upload.id, epoch, signal?.aborted ? undefined : error);
        return endIfLost(deps, upload, epoch, error);
      });
    return await commitProgress(deps, upload.id, epoch, { offset: upload.offset, ...made });
  } catch (error) {
    // Who has ended the upload meanwhile, or finished it, may have put the store in order before this came there.
    await tidyAgain(deps, upload.id);
    throw isLeaseLost(error) ? await toldOfLoss(deps, upload.id, error) : error;
  }
}

/**
 * Somebody else has taken over, perhaps finished, and perhaps put the store in order, and what this process has sent may
 * arrive after that. The failure is what is told, whatever comes of this.
 */
async function tidyAgain({ database }: LedgerDeps, id: string): Promise<void> {
  await database
    .query(
      `UPDATE uploads SET untidy = true, discarded_at = CASE WHEN status = 'finished' THEN discarded_at END
       WHERE id = $1 AND status <> 'uploading'`,
      [id],
    )
    .catch(() => {});
}

/**
 * After a failure the store may hold what the ledger does not name. The failure is what is told, whatever comes of this.
 * @param error why no object could be made; undefined: something else has failed
 */
async function noteFailure(
  { database }: LedgerDeps,
  id: string,
  epoch: number,
  error?: unknown,
): Promise<void> {
  await database
    .query(
      'UPDATE uploads SET untidy = true, error = coalesce($3, error) WHERE id = $1 AND lease_epoch = $2',
      [id, epoch, error ? JSON.stringify(whyNoFile(error)) : null],
    )
    .catch(() => {});
}

/** What the owner of an upload is told whose bytes are all here. */
function whyNoFile(error: unknown): Upload['error'] {
  const { code, detail, title } = error instanceof AppError ? error : new AppError('internal');
  return {
    code,
    detail: `All bytes have arrived, but no file could be made of them yet. ${detail ?? title}.`,
  };
}

/**
 * An upload whose acknowledged bytes are gone cannot go on: it expires, so that its client is told and begins anew.
 * @throws `error`
 */
async function endIfLost(
  { database }: LedgerDeps,
  { id, ownerId }: Upload,
  epoch: number,
  error: unknown,
): Promise<never> {
  if (!(error instanceof AppError && error.code === 'size_mismatch')) throw error;
  await database
    .transaction(async (manager) => {
      const [lost] = await queryEntities(
        manager,
        Upload,
        `UPDATE uploads SET untidy = true, status = 'expired', failures = 0, retry_at = NULL
         WHERE id = $1 AND lease_epoch = $2 AND status = 'uploading' RETURNING *`,
        [id, epoch],
      );
      if (!lost) return;
      await releaseQuota(manager, ownerId, lost.reservedBytes);
      const data = { reason: 'lost by the storage' };
      await appendEvents(manager, [{ type: 'upload.expired', subjectId: id, ownerId, data }]);
    })
    // The first error is the one to tell.
    .catch(() => {});
  throw error;
}

function toStored({ storageKey, offset, length, storageState }: Upload): StoredUpload {
  return { key: storageKey, offset, length, state: storageState };
}

/**
 * Turns an upload whose object is made into a file with status `pending`. May be called again: what is finished stays
 * as it is.
 * @param actor who sent the last byte; undefined: found by the system
 * @returns the file
 * @throws {AppError} not_found, gone, wrong_state
 */
export async function finishUpload(deps: LedgerDeps, id: string, actor?: Actor): Promise<File> {
  const { manager } = deps.database;
  const file = await insertFile(manager, id, actor);
  if (file) return file;
  const upload = await manager.getRepository(Upload).findOneBy({ id });
  if (!upload) throw new AppError('not_found');
  if (upload.status === 'finished') return manager.getRepository(File).findOneByOrFail({ id });
  if (upload.status !== 'uploading') throw new AppError('gone');
  throw new AppError('wrong_state', { detail: `${upload.offset} of ${upload.length} bytes are stored` });
}

/** Who was cut off because the upload was ended needs not come again. */
async function toldOfLoss({ database }: LedgerDeps, id: string, error: unknown): Promise<unknown> {
  const ended: unknown[] = await database
    .query(`SELECT FROM uploads WHERE id = $1 AND status IN ('expired', 'terminated')`, [id])
    .catch(() => []);
  return ended.length > 0 ? new AppError('gone', { detail: 'This upload was ended', cause: error }) : error;
}

function isLeaseLost(error: unknown): boolean {
  return error instanceof AppError && error.code === 'locked';
}

function leaseLost(): AppError {
  return new AppError('locked', { detail: 'Another request has taken over this upload', retryable: true });
}
