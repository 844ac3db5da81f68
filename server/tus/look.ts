import { type UploadCall, uploadIdOf } from '../uploads/call.js';
import { requireAlive, settleIfWhole, type UploadDeps } from '../uploads/steps.js';
import { concatOf, progressOf } from './concat.js';
import { expiryOf, type TusAnswer } from './headers.js';
import { writeMetadata } from './metadata.js';

/** How long HEAD waits until the object is assembled, in milliseconds; after that it answers 423. */
const ASSEMBLE_ON_HEAD_MS = 10_000;

/** HEAD /uploads/{id}: where the upload continues. */
export async function look(deps: UploadDeps, call: UploadCall): Promise<TusAnswer> {
  const lease = await call.look(uploadIdOf(call));
  await requireAlive(deps, lease.upload);
  // A server died after the last byte and before there was a file. Make it now, so that the client need not wait for
  // the reconciler. No client learns that the upload is complete before it is.
  if (lease.upload.status === 'uploading') {
    await settleIfWhole(deps, call, lease, AbortSignal.timeout(ASSEMBLE_ON_HEAD_MS));
  }
  const { upload } = lease;
  const metadata = upload.metadataHeader ?? writeMetadata(upload.metadata);
  return {
    status: 200,
    headers: {
      ...(await progressOf(deps, upload)),
      ...concatOf(upload),
      // "If an upload contains additional metadata, responses to HEAD requests MUST include the Upload-Metadata header and
      // its value as specified by the Client during the creation."
      ...(metadata ? { 'Upload-Metadata': metadata } : {}),
      // A final upload waits as long as its partial uploads do.
      ...(upload.kind === 'final' ? {} : expiryOf(upload)),
      // "The Server MUST prevent the client and/or proxies from caching the response".
      'Cache-Control': 'no-store',
    },
  };
}
