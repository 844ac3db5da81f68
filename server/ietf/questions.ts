import type { DataSource } from 'typeorm';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { UploadEnded } from '../../core/uploads/errors.js';
import { isOverdue, isTrashed } from '../../core/uploads/queries.js';
import { settle } from '../../core/uploads/settle.js';
import { can, uploadAccessOf } from '../auth/can.js';
import { actorOf } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import type { Answer } from './answer.js';
import { type Call, completeness } from './call.js';
import type { UploadDeps } from './create.js';
import { limitsOf } from './limits.js';
import { refuseState } from './request.js';

/** How long a question waits until the object is assembled. */
const ASSEMBLE_MS = 10_000;

/** Tells the offset, and whether the upload is complete. @throws {AppError} not_found, gone, unavailable */
export async function look(deps: UploadDeps, call: Call, id: string): Promise<Answer> {
  const { req, dialect } = call;
  refuseState(req, dialect);
  call.lease = await deps.leases.look(id, uploadAccessOf(call.principal), call.gone, call.letGo);
  const { lease } = call;
  const { upload } = lease;
  await requireActive(deps, upload);
  const { status, offset, length } = upload;
  const isWhole = status === 'uploading' && offset === length;
  // A server died after the last byte and before there was a file. No client learns that the upload is complete before it
  // is. A client of a newer version completes the upload itself, by an empty PATCH.
  if (isWhole && dialect.completeByLength) {
    await settle(deps, lease, { actor: actorOf(req), signal: AbortSignal.timeout(ASSEMBLE_MS) });
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
  const { req, dialect, principal } = call;
  refuseState(req, dialect);
  call.lease = await deps.leases.acquire(id, uploadAccessOf(principal), call.gone, call.letGo);
  const { lease } = call;
  // A finished upload is a file.
  if (lease.upload.status === 'finished' && !can(principal, 'manage', lease.upload)) {
    throw new RefusedError(
      'forbidden',
      { action: 'manage', subjectId: id },
      'The upload is complete: deleting its file needs the right to manage files',
    );
  }
  await terminateUpload(deps, id, actorOf(req), lease);
  return { status: 204, headers: {} };
}

/** @throws {UploadEnded}; {AppError} gone, wrong_state */
export async function requireActive(deps: { database: DataSource }, upload: Upload): Promise<void> {
  const { status, kind } = upload;
  if (status === 'expired' || status === 'terminated' || isOverdue(upload)) throw new UploadEnded();
  // Clients remember addresses. If told that an upload is complete, they never send a deleted file again.
  if (status === 'finished' && (await isTrashed(deps.database, upload.id))) {
    throw new AppError('gone', { detail: 'The file of this upload was deleted' });
  }
  if (kind !== 'file') {
    throw new AppError('wrong_state', { detail: 'This upload is part of a concatenation: go on with tus' });
  }
}
