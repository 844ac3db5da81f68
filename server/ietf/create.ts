import { AppError } from '../../core/errors.js';
import type { Keys } from '../auth/keys.js';
import { refuseCoding } from '../http/content-coding.js';
import { readBody } from '../http/request-body.js';
import { isForm } from '../plain/form-files.js';
import { ofAllowedType, type TypeCheckDeps } from '../plain/type-check.js';
import { addressOf } from '../uploads/address.js';
import { abandon, beginUpload, requireRoomForBody, type UploadDeps as SharedDeps } from '../uploads/steps.js';
import type { Answer } from './answer.js';
import { fits, takeBody } from './body.js';
import { type Call, completeness, leaseOf, tellLocation } from './call.js';
import { finish } from './finish.js';
import { limitsOf } from './limits.js';
import { BeyondLength, ContentMismatch } from './problems.js';
import { completenessIn, type Digests, describeIn, digestsIn, lengthIn } from './request.js';

export interface UploadDeps extends SharedDeps, TypeCheckDeps {
  keys: Keys;
  publicUrl: string | undefined;
}

/** Refusals of the whole file. */
const REFUSALS = ['too_large', 'quota_exceeded', 'type_not_allowed', 'checksum_mismatch'];

/**
 * Creates an upload and takes the body of the request into it.
 * @throws {AppError} as beginUpload() and takeBody(); checksum_mismatch when the file does not fit Repr-Digest
 */
export async function create(deps: UploadDeps, call: Call): Promise<Answer> {
  const { req, dialect } = call;
  const isLast = completenessIn(req, dialect);
  if (isLast === undefined) {
    throw new AppError('invalid_request', {
      detail: `Send ${dialect.completeness}, which says whether the body is all of the upload`,
    });
  }
  refuseCoding(req);
  if (isForm(req)) {
    throw new AppError('unsupported_media_type', {
      detail: 'A form is taken at /api/files only, and in one request',
    });
  }
  const length = lengthIn(req, { offset: 0, isLast, known: null });
  const [content, expected] = [digestsIn(req, 'Content-Digest'), digestsIn(req, 'Repr-Digest')];
  const begun = await beginUpload(deps, call, { length, description: describeIn(req), goesOn: true });
  call.lease = begun.lease;
  const location = addressOf(deps, req, begun.upload.id);
  tellLocation(call, { Location: location, ...limitsOf(deps, dialect, begun.upload) });

  try {
    requireRoomForBody(deps, call, leaseOf(call));
    const digests = await takeFirst(deps, call, { isLast, content, expected });
    const answer = isLast ? await finish(deps, call, digests['sha-256']) : continued(deps, call);
    return { ...answer, headers: { Location: location, ...answer.headers } };
  } catch (error) {
    if (isFinal(error, call)) {
      await abandon(deps, call, leaseOf(call));
      // Nothing is left to go on with, and the answer says so.
      call.lease = undefined;
    }
    throw error;
  }
}

/** Whether the client will not resume after this error, so that nothing is kept. */
function isFinal(error: unknown, { dialect }: Call): boolean {
  if (error instanceof BeyondLength) return dialect.overflowEnds;
  return error instanceof AppError && !(error instanceof ContentMismatch) && REFUSALS.includes(error.code);
}

/** Takes the body. If that is all of the upload, checks the type that its token allows, and its digests. */
async function takeFirst(
  deps: UploadDeps,
  call: Call,
  { isLast, content, expected }: { isLast: boolean; content: Digests; expected: Digests },
): Promise<Digests> {
  const lease = leaseOf(call);
  const { declaredType, allowedTypes: types, expectedSha256 } = lease.upload;
  const body = readBody(call.req);
  const source =
    types && isLast ? ofAllowedType(deps, { types, declaredType, stopped: call.stop }, body) : body;
  // Repr-Digest, `?sha256=` and Upload-Metadata may all name the SHA-256.
  const wanted: Digests = expectedSha256
    ? { ...expected, 'sha-256': Buffer.from(expectedSha256, 'hex') }
    : expected;
  const digests = await takeBody(deps, call, {
    source,
    isLast,
    content,
    also: isLast ? ['sha-256', ...(Object.keys(wanted) as (keyof Digests)[])] : [],
  });
  if (isLast && !fits(digests, wanted)) {
    throw new AppError('checksum_mismatch', { detail: 'The file does not have the announced digest' });
  }
  return digests;
}

/** The answer to a piece that is not the last one. */
function continued(deps: UploadDeps, call: Call): Answer {
  const { upload } = leaseOf(call);
  return {
    status: 201,
    headers: {
      'Upload-Offset': String(upload.offset),
      ...completeness(call.dialect, false),
      ...limitsOf(deps, call.dialect, upload),
    },
  };
}
