import type { RequestHandler, Response } from 'express';
import { AppError } from '../../core/errors.js';
import { type HookAnswer, UploadRefused } from '../../core/uploads/hooks.js';
import { noteIfRefused } from '../auth/refusals.js';
import { setErrorHeaders, toAppError } from '../http/problem.js';
import { openCall, type UploadCall } from '../uploads/call.js';
import { type HookedDeps, hooked, mergeHookAnswer, setHookHeaders } from '../uploads/hooked.js';
import { noteForeign, OffsetConflict } from '../uploads/steps.js';
import { append } from './append.js';
import { type CreateDeps, create } from './create.js';
import type { TusAnswer } from './headers.js';
import type { TusLimits } from './limits.js';
import { look } from './look.js';
import { answerOptions } from './options.js';
import { terminate } from './terminate.js';

/*
 * tus 1.0 at /uploads (https://tus.io/protocols/resumable-upload). Each verb reads its headers, takes the lease, calls the
 * ledger, and returns its answer. This file chooses the verb, gives the lease back, and turns errors into answers.
 */

export interface TusDeps extends CreateDeps, HookedDeps {
  corsOrigins: '*' | string[];
  corsHeaders: string[];
}

type Verb = (deps: TusDeps, call: UploadCall) => TusAnswer | Promise<TusAnswer>;

const VERBS: Record<string, Verb> = {
  OPTIONS: answerOptions,
  POST: create,
  HEAD: look,
  PATCH: append,
  DELETE: terminate,
};

/** Files are fetched from /api/files. */
const noSuchVerb: Verb = () => {
  throw new AppError('not_found');
};

/**
 * Creates the handler for `/uploads{/*path}`; it expects `req.principal`, except for OPTIONS.
 * @throws {AppError} rate_limited (from the handler) when too many requests name no existing upload
 */
export function createTusHandler(deps: TusDeps, limits: Pick<TusLimits, 'countMiss'>): RequestHandler {
  return async (req, res) => {
    const call = openCall(deps.leases, req, res);
    const { status, headers, body, hook } = await run(deps, call);
    const { uploadId } = req;
    if (status === 404 && uploadId) await noteForeign(deps, call, uploadId);
    if (status === 404 || status === 410) await limits.countMiss(req, res);
    await deps.refusals.whenWritten(req);
    if (res.destroyed) return;
    setHeaders(res, headers);
    if (hook) setHookHeaders(res, hook);
    res.status(status).end(body);
  };
}

async function run(deps: TusDeps, call: UploadCall): Promise<TusAnswer & { hook?: HookAnswer }> {
  const verb = VERBS[call.req.method] ?? noSuchVerb;
  const bound = hooked(deps, call.req);
  try {
    const answered = await verb(bound.deps, call);
    const hook = bound.answer();
    // Clients go by the status of a HEAD, whatever a hook makes of it.
    const merged = call.req.method === 'HEAD' ? {} : mergeHookAnswer(answered, hook);
    return { ...answered, ...merged, hook };
  } catch (error) {
    return answerError(deps, call, error);
  } finally {
    await call.end();
  }
}

/** Errors of ours have their status and their text. Other errors reveal nothing. */
function answerError(
  { refusals, log }: TusDeps,
  { req, res, gone }: UploadCall,
  thrown: unknown,
): TusAnswer & { hook?: HookAnswer } {
  noteIfRefused(refusals, req, thrown);
  const error = toAppError(thrown);
  // If the client has gone, nothing has failed but its connection.
  if (error.status >= 500 && !gone.aborted)
    log.error({ err: thrown, requestId: req.id, uploadId: req.uploadId }, 'tus request failed');
  setErrorHeaders(res, error);
  // This status is not of HTTP but of tus.
  if (error.code === 'chunk_mismatch') res.statusMessage = error.title;
  // Clients take any failed HEAD except 423 for the loss of the upload and send all of it again.
  const status = req.method === 'HEAD' && error.status >= 500 ? 423 : error.status;
  const hook = error instanceof UploadRefused ? error.answer : undefined;
  return {
    ...mergeHookAnswer({ status, body: `${error.detail ?? error.title}\n` }, hook ?? {}),
    ...(hook ? { hook } : {}),
    headers: {
      'Content-Type': 'text/plain; charset=utf-8',
      // A client that has lost count need not ask by HEAD.
      ...(error instanceof OffsetConflict ? { 'Upload-Offset': error.expected } : {}),
    },
  };
}

function setHeaders(res: Response, headers: TusAnswer['headers']): void {
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
}
