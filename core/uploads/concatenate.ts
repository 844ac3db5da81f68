import type { EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { Upload } from '../database/entities/upload.js';
import { User } from '../database/entities/user.js';
import { countChanged, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { insertBlobOfUpload, joinBlobs } from '../files/blobs.js';
import { insertFileOfBlob } from '../files/insert.js';
import {
  findPartials,
  hasEnded,
  lengthOf,
  listPartials,
  listReadyFinals,
  lockPartials,
  PARTIALS_OF_FINAL,
  partialEnded,
} from './concatenations.js';
import { type Creation, countRefusal, insertFinal, prepareCreation, refuseToken } from './create.js';
import { interpretMetadata } from './description.js';
import { abandonUpload, refuseUpload } from './end.js';
import { UploadEnded } from './errors.js';
import { UploadRefused } from './hooks.js';
import type { Lease, Leases } from './lease.js';
import { hasRoom, quotaExceeded } from './quota.js';
import { addJobs, askHook, assemble, incomplete, type SettleDeps, settle } from './settle.js';
import { requireAllowedLength } from './size-limits.js';

/*
 * Concatenation (tus 1.0): a client sends the pieces of a file as partial uploads, several at a time, and then creates a
 * final upload that names them.
 *
 * When a partial upload has all its bytes, its object becomes a blob to which the row of the upload refers. A final upload
 * has no bytes of its own. One transaction makes its blob of the objects of the partial uploads' blobs, in order, and then
 * its file, so no byte is read or copied and the size of the file does not matter. If partial uploads are still under way,
 * the final upload waits: the request that completes the last one finishes it too, or else the reconciler does.
 *
 * The bytes count once. A partial upload reserves room like any upload, but counts as no file. The transaction that makes
 * the file moves the room from the partial uploads to the file. The partial uploads are finished then, but stay usable for
 * a while: a client that has missed the answer finds them when it comes back. After that the reconciler lets them expire,
 * and gives up their blobs. The objects stay as long as a blob has them.
 */

export interface ConcatenateDeps extends SettleDeps {
  leases: Leases;
}

/**
 * How long a partial upload stays usable after its first use by a final upload. Meanwhile its bytes count only in the file,
 * and not at all if the file is deleted, so neither another use nor a final upload that waits prolongs the time.
 */
const USED_MINUTES = 60;

interface Finish {
  /** The sender of the request; undefined: the reconciler acts. */
  actor?: Actor | undefined;
  /** Gives up the assembly of an object when it aborts. */
  signal?: AbortSignal;
}

/** A final upload that can never become a file. */
class Hopeless extends Error {
  override name = 'Hopeless';
  constructor(readonly reason: AppError) {
    super(reason.message);
  }
}

/**
 * Does what is due when an upload has all its bytes: makes its file, or keeps it for final uploads and finishes the final
 * uploads that waited only for it. May be called again.
 * @param lease of an upload of any kind
 * @throws as settle(), and {AppError} gone, too_large, quota_exceeded for a final upload
 */
export async function conclude(deps: ConcatenateDeps, lease: Lease, finish: Finish = {}): Promise<void> {
  switch (lease.upload.kind) {
    case 'file':
      await settle(deps, lease, finish);
      break;
    case 'partial':
      await keepPartial(deps, lease, finish.signal);
      await finishWaiting(deps, await listReadyFinals(deps.database, lease.id), finish.actor);
      break;
    case 'final':
      await settleFinal(deps, lease, finish.actor);
  }
}

/**
 * Creates a final upload, and makes its file at once if its partial uploads have all their bytes.
 * @param partialIds of uploads of the same owner, in the order of their bytes; an id may come several times
 * @param header Upload-Concat as it came
 * @throws {AppError} not_found, invalid_request, gone: see findPartials(); too_large; and as createUpload() and conclude()
 */
export async function createFinal(
  deps: ConcatenateDeps,
  creation: Omit<Creation, 'leaseHolder' | 'length' | 'direct' | 'concat'>,
  { partialIds, header }: { partialIds: string[]; header: string },
): Promise<Upload> {
  // First: a guest must not learn which uploads the owner has.
  refuseToken(creation.token);
  const find = async (ownerId: string) => {
    const found = await findPartials(deps.database, ownerId, partialIds);
    requireSize(deps, found, interpretMetadata(creation.metadata).declaredType);
    return found;
  };
  const known = creation.ownerId === null ? undefined : await find(creation.ownerId);
  const concat = { kind: 'final', partialIds, header, length: known && lengthOf(known) } as const;
  const leaseHolder = deps.leases.holder;
  const { upload, partials, row } = await countRefusal(deps, async () => {
    const upload = await prepareCreation(deps, { ...creation, length: null, concat, leaseHolder });
    // A sender whom only the hook knows is told of uploads after the hook has named the owner.
    const partials = known ?? (await find(upload.ownerId));
    return { upload, partials, row: await insertFinal(deps, upload, partialIds) };
  });
  const lease = deps.leases.adopt(row, () => {});
  try {
    await settleFinal(deps, lease, upload.actor);
  } catch (error) {
    // No client knows its id yet.
    await abandonUpload(deps, lease, upload.actor, undefined).catch(() => {});
    throw error;
  } finally {
    await lease.release();
  }
  if (lease.upload.status === 'uploading') {
    // The request that completed the last partial upload may have met this lease, and left the final upload alone.
    await finishWaiting(deps, await listReadyFinals(deps.database, partials[0]?.id ?? ''), upload.actor);
  }
  return lease.upload;
}

/** @throws {AppError} too_large as soon as the known lengths are too much for one upload */
function requireSize(deps: ConcatenateDeps, partials: Upload[], declaredType: string | null): void {
  const known = partials.reduce((sum, { length }) => sum + (length ?? 0), 0);
  requireAllowedLength(deps, known, declaredType);
}

/**
 * Makes the blob of a partial upload that has all its bytes, unless there is one.
 * @throws {AppError} wrong_state, unavailable; {BytesLost}; {LeaseLost}; {UploadEnded}
 */
async function keepPartial(deps: ConcatenateDeps, lease: Lease, signal?: AbortSignal): Promise<void> {
  const { offset, length, finishedAt } = lease.upload;
  if (finishedAt !== null) return;
  if (offset !== length) throw incomplete(lease.upload);
  await assemble(deps, lease, signal);
  const { manager } = deps.database;
  const [kept] = await queryEntities(
    manager,
    Upload,
    `WITH upload AS (
       UPDATE uploads SET blob_id = $2, finished_at = now()
       WHERE id = $1 AND kind = 'partial' AND status = 'uploading' AND object_key IS NOT NULL AND finished_at IS NULL
       RETURNING *
     ), parts AS (
       DELETE FROM upload_parts USING upload WHERE upload_id = upload.id
     ), blob AS (
       ${insertBlobOfUpload('$2')}
     )
     SELECT * FROM upload`,
    [lease.id, uuidv7()],
  );
  // Another process may have been faster.
  const upload = kept ?? (await manager.getRepository(Upload).findOneByOrFail({ id: lease.id }));
  if (hasEnded(upload)) throw new UploadEnded();
  lease.upload = upload;
}

/** Finishes final uploads that have become ready. Errors are logged: the reconciler tries again. */
async function finishWaiting(deps: ConcatenateDeps, ids: string[], actor: Actor | undefined): Promise<void> {
  for (const id of ids) {
    const lease = await deps.leases.tryAcquire(id).catch(() => undefined);
    if (!lease) continue;
    try {
      await settleFinal(deps, lease, actor);
    } catch (error) {
      if (error instanceof UploadEnded || error instanceof UploadRefused) continue;
      deps.log.warn({ err: error, uploadId: id }, 'final upload not finished');
    } finally {
      await lease.release();
    }
  }
}

/**
 * Makes the file of a final upload, unless partial uploads are still under way, and queues its job. May be called again.
 * @throws as conclude()
 */
async function settleFinal(deps: ConcatenateDeps, lease: Lease, actor: Actor | undefined): Promise<void> {
  if (lease.upload.status === 'uploading') {
    const partials = await listPartials(deps.database, lease.id);
    // If one has ended, there will be no file: makeFile() refuses, and no hook is asked.
    if (!partials.some(hasEnded)) {
      const length = lengthOf(partials);
      if (length === undefined || !areReady(partials)) return;
      const partialIds = partials.map(({ id }) => id);
      await askHook(deps, lease, actor, { upload: { ...lease.upload, offset: length, length }, partialIds });
    }
  }
  try {
    const made = await deps.database.transaction((manager) => makeFile(deps, manager, lease, actor));
    if (made) lease.leave();
  } catch (error) {
    if (!(error instanceof Hopeless)) throw error;
    await refuseUpload(deps, lease, error.reason);
    throw error.reason;
  }
  const file = await deps.database.getRepository(File).findOneBy({ id: lease.id });
  if (!file) throw new UploadEnded();
  lease.upload = await deps.database.getRepository(Upload).findOneByOrFail({ id: lease.id });
  await addJobs(deps, [file], actor);
}

function areReady(partials: Upload[]): boolean {
  return partials.every(({ blobId }) => blobId !== null);
}

/**
 * The one transaction that turns partial uploads into a file.
 * @returns undefined if the final upload has ended, or is a file already
 * @throws {Hopeless}; {UploadEnded}
 */
async function makeFile(
  deps: ConcatenateDeps,
  manager: EntityManager,
  lease: Lease,
  actor: Actor | undefined,
): Promise<File | undefined> {
  const { id } = lease;
  const partials = await lockPartials(manager, id);
  if (partials.length === 0) return undefined;
  const blobIds = partials.map((partial) => {
    // One that has ended keeps its blob until the store has discarded the rest of it.
    if (partial.blobId !== null && !hasEnded(partial)) return partial.blobId;
    throw new Hopeless(partialEnded(partial.id));
  });
  try {
    requireSize(deps, partials, lease.upload.declaredType);
  } catch (error) {
    throw new Hopeless(error as AppError);
  }
  const blobId = uuidv7();
  const size = await joinBlobs(manager, blobId, blobIds);
  const file = await insertFileOfBlob(manager, id, { id: blobId, size }, actor);
  if (!file) throw new UploadEnded();
  const freed = await usePartials(manager, id);
  await takeRoom(manager, file.ownerId, deps.quota, size, freed);
  return file;
}

/** Marks the partial uploads of a final upload as used. @returns bytes that they had reserved until now */
async function usePartials(manager: EntityManager, finalId: string): Promise<number> {
  const [used] = await queryRows<{ freed: number }>(
    manager,
    `WITH partial AS (
       SELECT id, status, reserved_bytes FROM uploads WHERE id = ANY (${PARTIALS_OF_FINAL})
     ), used AS (
       UPDATE uploads
       SET status = 'finished', untidy = true, failures = 0,
         expires_at = CASE uploads.status WHEN 'finished' THEN expires_at ELSE now() + $2 * interval '1 minute' END,
         retry_at = CASE WHEN uploads.status = 'finished' THEN retry_at
                         WHEN NOT untidy THEN now() + $2 * interval '1 minute' END
       FROM partial WHERE uploads.id = partial.id
     ), done AS (
       DELETE FROM concatenations WHERE final_id = $1
     )
     SELECT coalesce(sum(reserved_bytes), 0)::float8 AS freed FROM partial WHERE status = 'uploading'`,
    [finalId, USED_MINUTES],
  );
  return used?.freed ?? 0;
}

/**
 * Moves the room of the partial uploads to the file. The final upload counts as a file since its creation. Only bytes
 * that the partial uploads had not reserved, because a final upload has used them before, need further room.
 * @throws {Hopeless} quota_exceeded
 */
async function takeRoom(
  manager: EntityManager,
  ownerId: string,
  quota: ConcatenateDeps['quota'],
  size: number,
  freed: number,
): Promise<void> {
  const room = hasRoom({ bytes: '$2::bigint', files: '0', quotaBytes: '$3', quotaFiles: '$4' });
  const taken = await countChanged(
    manager,
    `UPDATE users SET used_bytes = used_bytes + $2::bigint
     WHERE id = $1 AND ($2::bigint <= 0 OR ${room})`,
    [ownerId, size - freed, quota.bytes, quota.files],
  );
  if (taken > 0) return;
  const owner = await manager.getRepository(User).findOneByOrFail({ id: ownerId });
  throw new Hopeless(quotaExceeded(owner, quota, size - freed));
}
