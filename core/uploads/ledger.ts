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
 * The ledger of uploads: create (uploads/create.ts), append, finish, terminate (uploads/end.ts). Every protocol (tus,
 * a plain POST, direct upload) only calls these.
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
 * Appends the bytes of `source` at the upload's offset. If the last byte is among them, makes the object too.
 * @param upload as it was when the lease was taken
 * @param control its `hurry` aborts when another request waits for the lease
 * @returns the upload after the append; bytes before its offset survive a power cut
 * @throws {AppError} locked when another request has taken the lease; gone when the upload was ended; storage_full,
 * unavailable
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
    // The upload is complete. The source is still read, so that its limiter notices a body that is too long.
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
 * Commits an upload's progress in one statement, so that offset, parts and tail can never contradict each other.
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
    // The statement may have been carried out, so it is not known which stored bytes the ledger names.
    await noteFailure(deps, id, epoch);
    throw error;
  });
  if (!committed) throw leaseLost();
  return committed;
}

/**
 * Makes the object of an upload whose bytes are all here, unless it exists already. May be called repeatedly. The
 * reason of a failure is written to the upload's `error`, for its owner.
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
    // Another process may have ended or finished the upload, and cleaned up the store, before this object was made.
    await tidyAgain(deps, upload.id);
    throw isLeaseLost(error) ? await toldOfLoss(deps, upload.id, error) : error;
  }
}

/**
 * Marks an ended or finished upload for another cleanup. The process that ended it may have cleaned up the store
 * already, and this process's writes may arrive after that. Errors are ignored: the caller reports its own failure.
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
 * Records that after a failure the store may hold bytes that the ledger does not name. Errors are ignored: the caller
 * reports its own failure.
 * @param error why the object could not be made; undefined: something else failed
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

/** Tells the owner why an upload whose bytes are all here is not a file yet. */
function whyNoFile(error: unknown): Upload['error'] {
  const { code, detail, title } = error instanceof AppError ? error : new AppError('internal');
  return {
    code,
    detail: `All bytes have arrived, but no file could be made of them yet. ${detail ?? title}.`,
  };
}

/**
 * Expires an upload whose acknowledged bytes are lost, so that its client is told and begins a new upload.
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
    // The caller throws the first error.
    .catch(() => {});
  throw error;
}

function toStored({ storageKey, offset, length, storageState }: Upload): StoredUpload {
  return { key: storageKey, offset, length, state: storageState };
}

/**
 * Turns an upload whose object is made into a file with status `pending`. May be called again: a finished upload
 * stays as it is.
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

/** Turns `error` into `gone` if the upload was ended, so that the client does not retry. */
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
