import { terminateUpload } from '../../core/uploads/end.js';
import { can } from '../auth/can.js';
import { RefusedError } from '../auth/refusals.js';
import { type UploadCall, uploadIdOf } from '../uploads/call.js';
import type { UploadDeps } from '../uploads/steps.js';
import type { TusAnswer } from './headers.js';

/**
 * DELETE /uploads/{id}: "the Server SHOULD free associated resources and MUST respond with the 204 No Content status
 * confirming that the upload was terminated."
 */
export async function terminate(deps: UploadDeps, call: UploadCall): Promise<TusAnswer> {
  const lease = await call.acquire(uploadIdOf(call));
  // A finished upload is a file, unless it is a partial one.
  const { status, kind } = lease.upload;
  if (status === 'finished' && kind !== 'partial' && !can(call.principal(), 'manage', lease.upload)) {
    throw new RefusedError(
      'forbidden',
      { action: 'manage', subjectId: lease.id },
      'The upload is finished: deleting its file needs the right to manage files',
    );
  }
  await terminateUpload(deps, lease.id, call.actor, lease);
  return { status: 204, headers: {} };
}
