import type { Estimates } from '../../core/files/estimates.js';
import { type SettleDeps, settle } from '../../core/uploads/settle.js';
import type { Keys } from '../auth/keys.js';
import { sentFileToJson } from '../routes/file-json.js';
import type { Answer } from './answer.js';
import { type Call, completeness, leaseOf } from './call.js';
import { writeDigest } from './fields.js';
import { limitsOf } from './limits.js';
import { reprSha256Preference } from './request.js';

/** How long the object of a whole upload may still be assembled after the request was asked to let go, in milliseconds. */
const ASSEMBLE_MS = 500;

/**
 * Makes the file of an upload whose bytes are all here, and the final answer: that of a plain POST to `/api/files`,
 * wherever and in however many requests the upload was sent. May be called again for an upload that is finished.
 * @param sha256 of the whole upload, if this request has brought all of it; otherwise the worker computes it later
 * @throws as settle()
 */
export async function finish(
  deps: SettleDeps & { keys: Keys; maxUploadSize: number; estimates: Estimates },
  call: Call,
  sha256?: Buffer,
): Promise<Answer> {
  const { req, dialect, actor } = call;
  const lease = leaseOf(call);
  const file = await settle(deps, lease, { actor, signal: after(call.stop) });
  const sent = {
    ...(await sentFileToJson(deps, file, call.principal())),
    etaSeconds: await deps.estimates.secondsLeft(file),
  };
  return {
    status: 201,
    headers: {
      'Upload-Offset': String(lease.upload.offset),
      ...completeness(dialect, true),
      ...limitsOf(deps, dialect),
      ...(sha256 && reprSha256Preference(req) ? { 'Repr-Digest': writeDigest('sha-256', sha256) } : {}),
    },
    json: { files: [sha256 ? { ...sent, sha256: sha256.toString('hex') } : sent] },
  };
}

/** Aborts some time after `signal`. */
function after(signal: AbortSignal): AbortSignal {
  const late = new AbortController();
  const begin = () => setTimeout(() => late.abort(), ASSEMBLE_MS).unref();
  if (signal.aborted) begin();
  else signal.addEventListener('abort', begin);
  return late.signal;
}
