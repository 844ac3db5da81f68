import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { can } from '../auth/can.js';
import { RefusedError } from '../auth/refusals.js';
import { requireAlive, settleIfWhole } from '../uploads/steps.js';
import type { Answer } from './answer.js';
import { type Call, completeness } from './call.js';
import type { UploadDeps } from './create.js';
import { limitsOf } from './limits.js';
import { refuseState } from './request.js';

/** How long a question waits until the object is assembled. */
const ASSEMBLE_MS = 10_000;

/** Tells the offset, and whether the upload is complete. @throws {AppError} not_found, gone, unavailable */
export async function look(deps: UploadDeps, call: Call, id: string): Promise<Answer> {
  const { dialect } = call;
  refuseState(call.req, dialect);
  call.lease = await call.look(id);
  const { lease } = call;
  const { upload } = lease;
  await requireActive(deps, upload);
  const { status, offset, length } = upload;
  const isWhole = status === 'uploading' && offset === length;
  // A server died after the last byte and before there was a file. No client learns that the upload is complete before it
  // is. A client of a newer version completes the upload itself, by an empty PATCH.
  if (isWhole && dialect.completeByLength) {
    await settleIfWhole(deps, call, lease, AbortSignal.timeout(ASSEMBLE_MS));
  }
  return {
    status: 204,
    headers: {
      'Upload-Offset': String(offset),
      ...completeness(dialect, status === 'finished' || (isWhole && dialect.completeByLength)),
      ...(length === null ? {} : { 'Upload-Length': String(length) }),
      ...limitsOf(deps, dialect, upload),
      'Cache-Control': 'no-store',
    },
  };
}

/** Ends the upload; or deletes its file, if it is complete. @throws {AppError} not_found, gone, forbidden */
export async function cancel(deps: UploadDeps, call: Call, id: string): Promise<Answer> {
  refuseState(call.req, call.dialect);
  call.lease = await call.acquire(id);
  const { lease } = call;
  // A finished upload is a file, unless it is a partial one.
  const { status, kind } = lease.upload;
  if (status === 'finished' && kind !== 'partial' && !can(call.principal(), 'manage', lease.upload)) {
    throw new RefusedError(
      'forbidden',
      { action: 'manage', subjectId: id },
      'The upload is complete: deleting its file needs the right to manage files',
    );
  }
  await terminateUpload(deps, id, call.actor, lease);
  return { status: 204, headers: {} };
}

/** @throws {AppError} gone, wrong_state */
export async function requireActive(deps: UploadDeps, upload: Upload): Promise<void> {
  await requireAlive(deps, upload);
  const { kind, status } = upload;
  if (kind === 'partial' || (kind === 'final' && status !== 'finished')) {
    throw new AppError('wrong_state', { detail: 'This upload is part of a concatenation: go on with tus' });
  }
}
