import type { Request } from 'express';
import { AppError } from '../../core/errors.js';
import { refuseCoding } from '../http/content-coding.js';
import { type AddressDeps, addressOf } from '../uploads/address.js';
import type { UploadCall } from '../uploads/call.js';
import {
  abandon,
  beginUpload,
  receiveBody,
  requireRoomForBody,
  settleIfWhole,
  type UploadDeps,
} from '../uploads/steps.js';
import { ChunkRefused, readChecksum } from './checksum.js';
import { concatenate, readConcat } from './concat.js';
import {
  estimateOf,
  expiryOf,
  hasBody,
  isOctets,
  readBytes,
  requireOctets,
  type TusAnswer,
} from './headers.js';
import { describeUpload } from './metadata.js';

/** Needed to tell the new upload's URL. */
export interface CreateDeps extends UploadDeps, AddressDeps {}

/** POST /uploads: creation, and creation with upload. */
export async function create(deps: CreateDeps, call: UploadCall): Promise<TusAnswer> {
  const { req } = call;
  const concat = readConcat(req, deps.publicUrl);
  const description = describeUpload(req.get('Upload-Metadata'));
  if (concat?.kind === 'final') {
    const final = await concatenate(deps, call, concat, description);
    const headers = { Location: addressOf(deps, req, final.id), ...(await estimateOf(deps, final)) };
    return { status: 201, headers };
  }
  const length = readLength(req);
  // "The Client MAY include either the entirety or a chunk of the upload data in the body of the POST request. … The
  // Client MUST include the Content-Type: application/offset+octet-stream header." Without a body the type means nothing:
  // some clients always send one.
  refuseCoding(req);
  const withUpload = isOctets(req);
  if (!withUpload && (await hasBody(call))) requireOctets(req);
  // "The Upload-Length header MAY be set to 0, indicating that the Client wants to upload an empty file. Such an upload
  // is immediately complete after its creation".
  const check = withUpload ? readChecksum(req) : undefined;
  const goesOn = withUpload || length === 0;
  if (withUpload) requireFit(req, length ?? deps.maxUploadSize);
  const { upload, lease } = await beginUpload(deps, call, { length, description, goesOn, concat });
  if (lease && withUpload) {
    try {
      requireRoomForBody(deps, call, lease);
      await receiveBody(deps, call, lease, check);
    } catch (error) {
      // The client does not know the new upload's URL and has to create another one.
      if (isRefusal(error)) await abandon(deps, call, lease);
      throw error;
    }
  }
  if (lease) await settleIfWhole(deps, call, lease);
  const row = lease?.upload ?? upload;
  // "The Server MUST acknowledge a successful upload creation with the 201 Created status. The Server MUST set the
  // Location header to the URL of the created resource." With upload it "MUST include the Upload-Offset header in the
  // response and MUST set its value to the offset of the upload after applying the accepted bytes." "If the expiration is
  // known at the creation, the Upload-Expires header MUST be included in the response to the initial POST request."
  return {
    status: 201,
    headers: {
      Location: addressOf(deps, req, row.id),
      ...(withUpload ? { 'Upload-Offset': row.offset } : {}),
      ...expiryOf(row),
      ...(await estimateOf(deps, row)),
    },
  };
}

/**
 * "The request MUST include one of the following headers: a) Upload-Length to indicate the size of an entire upload in
 * bytes. b) Upload-Defer-Length: 1 if upload size is not known at the time. If the Upload-Defer-Length header contains
 * any other value than 1 the server should return a 400 Bad Request status."
 * @returns bytes; null if the length is deferred
 * @throws {AppError} invalid_request
 */
function readLength(req: Request): number | null {
  const length = readBytes(req, 'Upload-Length');
  const deferred = req.get('Upload-Defer-Length');
  if (deferred !== undefined && deferred !== '1') {
    throw new AppError('invalid_request', { detail: 'Upload-Defer-Length must be 1' });
  }
  if ((length === undefined) === (deferred === undefined)) {
    throw new AppError('invalid_request', { detail: 'Send either Upload-Length or Upload-Defer-Length: 1' });
  }
  return length ?? null;
}

/** Whether a body will be refused however often it is sent. */
function isRefusal(error: unknown): boolean {
  const isTooMuch = error instanceof AppError && ['too_large', 'quota_exceeded'].includes(error.code);
  return isTooMuch || error instanceof ChunkRefused;
}

/** A body that is longer than its upload may become creates none. @throws {AppError} too_large */
function requireFit(req: Request, most: number): void {
  if (Number(req.headers['content-length'] ?? 0) <= most) return;
  throw new AppError('too_large', { detail: `The body is longer than the ${most} bytes of the upload` });
}
