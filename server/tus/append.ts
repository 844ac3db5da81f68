import type { Request } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { declareLength } from '../../core/uploads/commit.js';
import type { DigestName } from '../../core/uploads/digests.js';
import type { Digests } from '../../core/uploads/receive.js';
import { refuseCoding } from '../http/content-coding.js';
import { type UploadCall, uploadIdOf } from '../uploads/call.js';
import {
  OffsetConflict,
  receiveBody,
  requireAlive,
  requireRoomForBody,
  settleIfWhole,
  type UploadDeps,
} from '../uploads/steps.js';
import { readChecksum } from './checksum.js';
import { refuseFinal } from './concat.js';
import { estimateOf, expiryOf, readBytes, requireOctets, type TusAnswer } from './headers.js';

/** PATCH /uploads/{id}: the next bytes. */
export async function append(deps: UploadDeps, call: UploadCall): Promise<TusAnswer> {
  const { req } = call;
  const id = uploadIdOf(call);
  // "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the server SHOULD return a
  // 415 Unsupported Media Type status."
  requireOctets(req);
  refuseCoding(req);
  const offset = readOffset(req);
  const length = readBytes(req, 'Upload-Length');
  const check = readChecksum(req);

  const lease = await call.acquire(id);
  refuseFinal(lease.upload);
  await requireAlive(deps, lease.upload);
  // "The Upload-Offset header's value MUST be equal to the current offset of the resource. … If the offsets do not
  // match, the Server MUST respond with the 409 Conflict status without modifying the upload resource."
  if (offset !== lease.upload.offset) throw new OffsetConflict(lease.upload.offset, offset);
  if (length !== undefined) requireLength(lease.upload, length);
  const declare = async () => {
    if (length !== undefined && lease.upload.length === null) await declareLength(deps, lease, length);
  };
  if (!check) await declare();
  requireRoomForBody(deps, call, lease);
  // If the checksum is wrong, "the upload and its offset MUST NOT be updated", so the length does not count either.
  const checked = check && {
    digests: check.digests,
    limit: length && length - offset,
    async verify(found: Digests<DigestName>) {
      check.verify(found);
      await declare();
    },
  };
  await receiveBody(deps, call, lease, checked);
  await settleIfWhole(deps, call, lease);
  // "The Server MUST acknowledge successful PATCH requests with the 204 No Content status. It MUST include the
  // Upload-Offset header containing the new offset." Upload-Expires "MUST be included in every PATCH response if the
  // upload is going to expire."
  return {
    status: 204,
    headers: {
      'Upload-Offset': lease.upload.offset,
      ...expiryOf(lease.upload),
      ...(await estimateOf(deps, lease.upload)),
    },
  };
}

/** @throws {AppError} invalid_request */
function readOffset(req: Request): number {
  const offset = readBytes(req, 'Upload-Offset');
  if (offset === undefined) throw new AppError('invalid_request', { detail: 'Send Upload-Offset' });
  return offset;
}

/**
 * "If the length was deferred using Upload-Defer-Length: 1, the Client MUST set the Upload-Length header in the next
 * PATCH request, once the length is known. Once set the length MUST NOT be changed."
 * @throws {AppError} invalid_request
 */
function requireLength({ offset, length }: Upload, declared: number): void {
  // A client that has had no answer may repeat it.
  if (length === declared) return;
  if (length !== null) {
    throw new AppError('invalid_request', {
      detail: `The length of this upload is known, ${length} bytes: send no Upload-Length`,
    });
  }
  if (declared < offset) {
    throw new AppError('invalid_request', {
      detail: `Upload-Length is ${declared}, but ${offset} bytes are stored: it must be at least that`,
    });
  }
}
