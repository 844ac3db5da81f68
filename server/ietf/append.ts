import { AppError } from '../../core/errors.js';
import { declareLength } from '../../core/uploads/commit.js';
import { refuseCoding } from '../http/content-coding.js';
import { readBody } from '../http/request-body.js';
import { abandon, requireRoomForBody } from '../uploads/steps.js';
import type { Answer } from './answer.js';
import { takeBody } from './body.js';
import { type Call, completeness, leaseOf } from './call.js';
import type { UploadDeps } from './create.js';
import { finish } from './finish.js';
import { limitsOf } from './limits.js';
import { BeyondLength, CompletedUpload, LetGo, MismatchingOffset } from './problems.js';
import { requireActive } from './questions.js';
import {
  completenessIn,
  contentLengthOf,
  digestsIn,
  lengthIn,
  mediaTypeOf,
  offsetIn,
  PARTIAL_UPLOAD,
} from './request.js';

/**
 * Appends the body of a PATCH to an upload.
 * @throws {AppError} as takeBody() and finish(); {MismatchingOffset}; {CompletedUpload}
 */
export async function append(deps: UploadDeps, call: Call, id: string): Promise<Answer> {
  const { req, dialect } = call;
  const head = readHead(call);
  const content = digestsIn(req, 'Content-Digest');
  call.lease = await call.acquire(id);
  const lease = call.lease;
  await requireActive(deps, lease.upload);
  if (lease.upload.status === 'finished') return appendToComplete(deps, call, head);
  if (head.offset !== lease.upload.offset) throw new MismatchingOffset(lease.upload.offset, head.offset);
  try {
    await declare(deps, call, head.isLast);
    requireRoomForBody(deps, call, lease);
    await takeBody(deps, call, { source: readBody(req), isLast: head.isLast, content });
  } catch (error) {
    if (error instanceof BeyondLength && dialect.overflowEnds) await abandon(deps, call, lease);
    throw error;
  }
  if (head.isLast) return finish(deps, call);
  return {
    status: dialect.appended,
    headers: {
      'Upload-Offset': String(lease.upload.offset),
      ...completeness(dialect, false),
      ...limitsOf(deps, dialect, lease.upload),
    },
  };
}

interface Head {
  offset: number;
  isLast: boolean;
}

/** @throws {AppError} unsupported_media_type, invalid_request */
function readHead({ req, res, dialect }: Call): Head {
  if (dialect.typedPatch && mediaTypeOf(req) !== PARTIAL_UPLOAD) {
    res.setHeader('Accept-Patch', PARTIAL_UPLOAD);
    throw new AppError('unsupported_media_type', { detail: `Send Content-Type: ${PARTIAL_UPLOAD}` });
  }
  refuseCoding(req);
  const offset = offsetIn(req);
  if (offset === undefined) throw new AppError('invalid_request', { detail: 'Send Upload-Offset' });
  const isLast = completenessIn(req, dialect) ?? dialect.completeByDefault;
  if (isLast === undefined) throw new AppError('invalid_request', { detail: 'Send Upload-Complete' });
  return { offset, isLast };
}

/** Checks the length that the request tells, and notes it. @throws {InconsistentLength}; {AppError} too_large */
async function declare(deps: UploadDeps, call: Call, isLast: boolean): Promise<void> {
  const lease = leaseOf(call);
  const { offset, length: known } = lease.upload;
  const length = lengthIn(call.req, { offset, isLast, known });
  if (known !== null || length === null) return;
  await declareLength(deps, lease, length);
}

/**
 * A client that has not got the final answer sends the last request again, without content. "The server can choose to
 * replay the final response to the client if the request to append to the completed upload is valid."
 * @throws {MismatchingOffset}; {CompletedUpload}; {InconsistentLength}
 */
async function appendToComplete(deps: UploadDeps, call: Call, { offset, isLast }: Head): Promise<Answer> {
  const { upload } = leaseOf(call);
  if (offset !== upload.offset) throw new MismatchingOffset(upload.offset, offset);
  if (!isLast || !call.dialect.replays || !(await isEmpty(call))) throw new CompletedUpload();
  // "If multiple requests include indicators, their indicated values MUST match."
  lengthIn(call.req, { offset, isLast, known: upload.length });
  return finish(deps, call);
}

/** Whether the request has no content. That of a chunked request is known when its end has arrived. @throws {LetGo} */
async function isEmpty({ req, stop }: Call): Promise<boolean> {
  const length = contentLengthOf(req);
  if (length !== undefined) return length === 0;
  const body = readBody(req, 0);
  if (stop.aborted) body.end();
  stop.addEventListener('abort', body.end);
  const ended = await body
    .flow(() => undefined)
    .then(
      () => true,
      () => false,
    );
  if (stop.aborted) throw new LetGo();
  return ended;
}
