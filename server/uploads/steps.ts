import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import type { Estimates } from '../../core/files/estimates.js';
import { type ConcatenateDeps, conclude } from '../../core/uploads/concatenate.js';
import { type Concat, createUpload } from '../../core/uploads/create.js';
import type { Description } from '../../core/uploads/description.js';
import type { DigestName } from '../../core/uploads/digests.js';
import { abandonUpload } from '../../core/uploads/end.js';
import { UploadEnded } from '../../core/uploads/errors.js';
import type { Lease } from '../../core/uploads/lease.js';
import { getUpload, isOverdue, isTrashed } from '../../core/uploads/queries.js';
import { bytesLeft, type Digests, type ReceiveOptions, receive } from '../../core/uploads/receive.js';
import { can } from '../auth/can.js';
import type { Refusals } from '../auth/refusals.js';
import { readBody } from '../http/request-body.js';
import type { UploadCall } from './call.js';

/*
 * The steps that requests of every resumable protocol are made of. A protocol reads its headers, calls these, and
 * writes its answer; see server/tus/append.ts for the usual order.
 */

export interface UploadDeps extends ConcatenateDeps {
  estimates: Estimates;
  refusals: Refusals;
}

/** The client's offset is not that of the upload. */
export class OffsetConflict extends AppError {
  override name = 'OffsetConflict';
  /** @param expected the upload's offset in bytes, @param provided the client's */
  constructor(
    readonly expected: number,
    readonly provided: number,
  ) {
    super('offset_conflict', { detail: `The upload continues at ${expected}, not at ${provided}` });
  }
}

/** What a client says of a new upload. */
export interface Beginning {
  /** Bytes; null if not known yet. */
  length: number | null;
  description: Description;
  /** Its role in a concatenation; undefined: it becomes a file by itself. */
  concat?: Concat | undefined;
  /** Whether this request goes on with the upload, and so needs its lease. */
  goesOn: boolean;
}

/**
 * Creates an upload of the sender.
 * @returns its row, and its lease if the request goes on with it
 * @throws {AppError} as createUpload()
 */
export async function beginUpload(
  deps: UploadDeps,
  call: UploadCall,
  { length, description, concat, goesOn }: Beginning,
): Promise<{ upload: Upload; lease: Lease | undefined }> {
  const upload = await createUpload(deps, {
    ...call.newUpload(),
    length,
    ...description,
    concat,
    leaseHolder: goesOn ? deps.leases.holder : null,
  });
  call.own(upload);
  return { upload, lease: goesOn ? call.adopt(upload) : undefined };
}

/** @throws {AppError} gone when the upload has ended, is past its expiry, or its file was deleted */
export async function requireAlive(
  { database }: Pick<UploadDeps, 'database'>,
  upload: Upload,
): Promise<void> {
  if (upload.status === 'expired' || upload.status === 'terminated' || isOverdue(upload)) {
    throw new AppError('gone');
  }
  // Clients remember upload URLs. If told that an upload is complete, they never send a deleted file again.
  if (upload.status === 'finished' && (await isTrashed(database, upload.id))) {
    throw new AppError('gone', { detail: 'The file of this upload was deleted' });
  }
}

/**
 * Refuses a body whose Content-Length says that it is too long, before any byte of it is read.
 * @throws {AppError} too_large
 */
export function requireRoomForBody(
  deps: Pick<UploadDeps, 'maxUploadSize'>,
  { req }: UploadCall,
  lease: Lease,
): void {
  const left = bytesLeft(deps, lease);
  if (Number(req.headers['content-length'] ?? 0) <= left) return;
  throw new AppError('too_large', { detail: `The body exceeds the ${left} bytes that are left` });
}

/**
 * Stores the body of the request at the upload's offset.
 * @param options.limit bytes of the body; undefined: as many as the upload takes
 * @throws as receive()
 */
export async function receiveBody<Name extends DigestName = never>(
  deps: UploadDeps,
  { req, res, stop }: UploadCall,
  lease: Lease,
  { limit, ...options }: Omit<ReceiveOptions<Name>, 'stop'> & { limit?: number | undefined } = {},
): Promise<Digests<Name>> {
  try {
    return await receive<Name>(deps, lease, readBody(req, limit), { ...options, stop });
  } finally {
    // Nobody reads the rest of the body, so the connection must close.
    if (stop.aborted && !res.headersSent) res.setHeader('Connection', 'close');
  }
}

/** Does what is due when all bytes of the upload are here: makes its file, or the file that it is a part of. @throws as conclude() */
export async function settleIfWhole(
  deps: UploadDeps,
  { actor, stop }: UploadCall,
  lease: Lease,
  signal: AbortSignal = stop,
): Promise<void> {
  if (lease.upload.offset === lease.upload.length) await conclude(deps, lease, { actor, signal });
}

/**
 * Ends an upload whose own request has failed, so that the client can create another one. If that fails too, the upload
 * expires. Never throws.
 */
export async function abandon(deps: UploadDeps, call: UploadCall, lease: Lease): Promise<void> {
  const tokenId = call.principal().uploadToken?.id;
  await abandonUpload(deps, lease, call.actor, tokenId).catch((error: unknown) => {
    if (error instanceof UploadEnded) return;
    deps.log.warn({ err: error, uploadId: lease.id }, 'upload not ended');
  });
}

/**
 * Records in the event log that the request named an upload of somebody else. The client got the answer for a missing
 * one. Never throws.
 */
export async function noteForeign(
  { database, refusals, log }: Pick<UploadDeps, 'database' | 'refusals' | 'log'>,
  { req }: UploadCall,
  id: string,
): Promise<void> {
  const { principal } = req;
  if (!principal) return;
  try {
    const upload = await getUpload(database, id);
    if (!can(principal, 'upload', upload)) {
      refusals.note(req, { action: 'upload', code: 'not_found', subjectId: id });
    }
  } catch (error) {
    if (!(error instanceof AppError)) log.warn({ err: error, requestId: req.id }, 'refusal not written down');
  }
}
