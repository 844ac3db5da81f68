import type { Actor } from '../database/entities/event.js';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import type { DirectUploads, Part } from '../storage/storage.js';
import { commitProgress } from './commit.js';
import { createUpload, type NewUpload } from './create.js';
import { namePartRanges, type PlannedPart, planParts } from './direct-parts.js';
import { abandonUpload } from './end.js';
import type { Lease, Leases } from './lease.js';
import { getUpload, isOverdue, type UploadAccess } from './queries.js';
import { type SettleDeps, settle } from './settle.js';

/*
 * Direct upload: the client sends the parts of an S3 multipart upload to addresses that the server has signed for it,
 * each for one part of exactly one size.
 *
 * The ledger's row is written first, so that everything in S3 belongs to an upload, which expires and is discarded
 * like any other. Its offset stays at 0 until the client says that it has sent all parts. Then the server takes the
 * lease and asks S3 which parts have arrived. Only when every part is there in its planned size does the server
 * commit the parts and the offset to the ledger. From then on it is treated like an upload by tus.
 *
 * It is a multipart upload even if it has only one part. The address of a whole object could be used again after
 * the scan, to overwrite the object. The address of a part no longer works once the upload is completed.
 *
 * A client can still send a part to an upload that was aborted, and some stores keep such a part. So the upload is
 * discarded once more when its addresses have expired (uploads/discard.ts).
 */

/** Addresses that one answer holds at most: signing one takes about a millisecond. */
export const MAX_ADDRESSES = 100;

/** How far the store's clock may be behind ours when it decides that an address has expired. */
const CLOCK_SLACK_SECONDS = 300;

export interface DirectDeps extends SettleDeps {
  leases: Leases;
}

/** The signed addresses for a client that sends parts. */
export interface SignedParts {
  upload: Upload;
  /** Bytes of each part; the last one may have fewer. */
  partSize: number;
  partCount: number;
  /** Addresses for PUT, good for an hour. The body must have exactly `size` bytes. */
  parts: (PlannedPart & { url: string })[];
}

/**
 * Begins an upload whose bytes the client sends to the store itself.
 * @param upload its length in bytes is at least 1
 * @returns the upload, with addresses of its first parts
 * @throws {AppError} not_direct where bytes are not in S3; unauthenticated; unavailable
 */
export async function beginDirectUpload(
  deps: DirectDeps,
  upload: Omit<NewUpload, 'leaseHolder' | 'direct' | 'length'> & { length: number },
): Promise<SignedParts> {
  const direct = requireDirect(deps);
  const row = await createUpload(deps, { ...upload, direct: true, leaseHolder: deps.leases.holder });
  const lease = deps.leases.adopt(row, () => {});
  try {
    const state = await direct.begin(row.storageKey);
    await commitProgress(deps, lease, { offset: 0, state });
    const begun = await promiseAddresses(deps, direct, row.id);
    if (!begun) throw new AppError('gone');
    return await sign(direct, begun, plan(direct, begun).parts.slice(0, MAX_ADDRESSES));
  } catch (error) {
    // No client knows its id yet.
    await abandonUpload(deps, lease, upload.actor, upload.token?.id).catch(() => {});
    throw error;
  } finally {
    await lease.release();
  }
}

/**
 * Signs addresses for further parts, or new addresses for the same parts, and extends the upload's expiry. The
 * caller checks who owns the upload.
 * @param numbers of the parts; undefined: the first parts that have not arrived
 * @throws {AppError} not_found; gone; wrong_state when it is no direct upload or has all its parts; invalid_request;
 * not_direct; unavailable
 */
export async function signMoreParts(deps: DirectDeps, id: string, numbers?: number[]): Promise<SignedParts> {
  const direct = requireDirect(deps);
  const upload = await promiseAddresses(deps, direct, id);
  if (!upload) throw whyNotOpen(await getUpload(deps.database, id));
  if (!numbers) return sign(direct, upload, await missingParts(direct, upload));
  const { partCount, parts } = plan(direct, upload);
  const wanted = numbers.map((number) => {
    const part = parts[number - 1];
    if (part) return part;
    throw new AppError('invalid_request', {
      detail: `There is no part ${number}: the upload has ${partCount}`,
    });
  });
  return sign(direct, upload, wanted);
}

/**
 * Records, before the addresses are signed, until when clients will have them, and extends the expiry.
 * @returns undefined if the upload takes no parts (any more)
 */
async function promiseAddresses(
  { database, uploadExpiryHours }: DirectDeps,
  { addressSeconds }: DirectUploads,
  id: string,
): Promise<Upload | undefined> {
  const [upload] = await queryEntities(
    database.manager,
    Upload,
    `UPDATE uploads SET expires_at = now() + $2 * interval '1 hour', addresses_until = now() + $3 * interval '1 second'
     WHERE id = $1 AND direct AND status = 'uploading' AND "offset" = 0 AND expires_at > now()
     RETURNING *`,
    [id, uploadExpiryHours, addressSeconds + CLOCK_SLACK_SECONDS],
  );
  return upload;
}

/**
 * Makes the file of a direct upload whose parts are all in the store, and queues its job. May be called again, for
 * example when the answer was lost.
 * @returns the id of the file
 * @throws {AppError} not_found; gone; wrong_state when it is no direct upload; incomplete, naming what is missing;
 * not_direct; locked; unavailable
 */
export async function completeDirectUpload(
  deps: DirectDeps,
  access: UploadAccess,
  id: string,
  actor: Actor,
): Promise<string> {
  const direct = requireDirect(deps);
  // Neither another request nor a disconnect of the client stops it: another request would ask for the same result.
  const lease = await deps.leases.acquire(id, access, new AbortController().signal, undefined);
  try {
    const { upload } = lease;
    if (!upload.direct) throw notDirect();
    if (upload.status === 'uploading') {
      if (isOverdue(upload)) throw new AppError('gone');
      if (upload.offset !== upload.length) await takeStock(deps, direct, lease);
    }
    const file = await settle(deps, lease, { actor });
    return file.id;
  } finally {
    await lease.release();
  }
}

/** Commits the parts to the ledger if all have arrived. @throws {AppError} incomplete; unavailable */
async function takeStock(deps: DirectDeps, direct: DirectUploads, lease: Lease): Promise<void> {
  const { upload } = lease;
  const { partCount, parts: planned } = plan(direct, upload);
  const arrived = await listArrived(direct, upload);
  const missing = planned.filter(({ number }) => !arrived.has(number)).map(({ number }) => number);
  if (missing.length > 0)
    throw incomplete(`${namePartRanges(missing)} of ${partCount} missing: send what is missing`);
  const parts = planned.map(({ number, size }) => {
    const found = arrived.get(number) as Part;
    if (found.size === size) return found;
    throw incomplete(
      `Part ${number} of ${partCount} has ${found.size} bytes instead of ${size}: send it again`,
    );
  });
  await commitProgress(deps, lease, { offset: upload.length ?? 0, parts });
}

function plan(direct: DirectUploads, { length }: Upload) {
  const size = length ?? 0;
  return planParts(size, direct.partSize(size));
}

async function sign(direct: DirectUploads, upload: Upload, parts: PlannedPart[]): Promise<SignedParts> {
  const { partSize, partCount } = plan(direct, upload);
  const urls = await direct.sign(upload.storageKey, stateOf(upload), parts);
  return {
    upload,
    partSize,
    partCount,
    parts: parts.map((part, index) => ({ ...part, url: urls[index] ?? '' })),
  };
}

/** The parts that the client is to send next. */
async function missingParts(direct: DirectUploads, upload: Upload): Promise<PlannedPart[]> {
  const arrived = await listArrived(direct, upload);
  const { parts } = plan(direct, upload);
  return parts.filter(({ number, size }) => arrived.get(number)?.size !== size).slice(0, MAX_ADDRESSES);
}

async function listArrived(direct: DirectUploads, upload: Upload): Promise<Map<number, Part>> {
  const parts = await direct.listParts(upload.storageKey, stateOf(upload));
  return new Map(parts.map((part) => [part.number, part]));
}

function stateOf({ storageState }: Upload) {
  if (!storageState) throw new Error('a direct upload without a multipart upload');
  return storageState;
}

function requireDirect({ storage }: DirectDeps): DirectUploads {
  if (storage.direct) return storage.direct;
  throw new AppError('not_direct', {
    detail: 'This server keeps its bytes in files: upload by tus at /uploads',
  });
}

function whyNotOpen(upload: Upload): AppError {
  if (!upload.direct) return notDirect();
  if (upload.status === 'finished' || upload.offset > 0) {
    return new AppError('wrong_state', { detail: 'The upload has all its parts' });
  }
  return new AppError('gone');
}

function notDirect(): AppError {
  return new AppError('wrong_state', { detail: 'This upload was begun by tus: its bytes go to /uploads' });
}

function incomplete(detail: string): AppError {
  return new AppError('incomplete', { detail });
}
