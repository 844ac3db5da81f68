import { type ErrorRequestHandler, type RequestHandler, Router } from 'express';
import { AppError } from '../../core/errors.js';
import type { Authenticate } from '../auth/authenticate.js';
import type { Drain } from '../http/drain.js';
import type { Limits } from '../limits/limits.js';
import type { TusLimits } from '../tus/limits.js';
import { findUploadId } from '../uploads/call.js';
import { type HookedDeps, hooked } from '../uploads/hooked.js';
import { noteForeign } from '../uploads/steps.js';
import { sendAnswer } from './answer.js';
import { append } from './append.js';
import { type Call, openCall } from './call.js';
import { create, type UploadDeps } from './create.js';
import { answerError, type ErrorDeps } from './errors.js';
import { cancel, look } from './questions.js';
import { isResumable, isUpgradable } from './request.js';
import { dialectOf, VERSION_FIELD } from './versions.js';

/*
 * Resumable uploads for HTTP (draft-ietf-httpbis-resumable-upload): uploads are created at `/uploads` and `/api/files`, and
 * go on at `/uploads/{id}`, like those of tus. This folder translates; policy and state are those of the ledger.
 */

export interface ResumableDeps extends UploadDeps, ErrorDeps, HookedDeps {
  drain: Drain;
  limits: Limits;
}

/** Handlers that the requests of both protocols pass. */
interface Gates {
  authenticate: Authenticate;
  asUploader: RequestHandler;
  limits: TusLimits;
}

/** Creates the handlers of `/uploads{/*path}`; they leave requests that do not speak this protocol to the next route. */
export function resumableUploads(
  deps: ResumableDeps,
  gates: Gates,
): (RequestHandler | ErrorRequestHandler)[] {
  const { drain } = deps;
  const select: RequestHandler = (req, _res, next) => next(isResumable(req) ? undefined : 'route');
  return [
    select,
    nameVersion,
    drain.refuse,
    gates.limits.globally,
    gates.asUploader,
    gates.limits.byKind,
    drain.track(createHandler(deps, gates.limits, dispatch)),
    createErrorHandler(deps),
  ];
}

/** Creates the router of `/api/files`. It leaves every request to the next handler that is not to be resumable. */
export function resumablePosts(deps: ResumableDeps, { authenticate, limits }: Gates): Router {
  const { drain } = deps;
  const signIn: RequestHandler = async (req, _res, next) => {
    await authenticate(req, 'upload');
    next();
  };
  const select: RequestHandler = (req, _res, next) =>
    next(['POST', 'PUT'].includes(req.method) && isUpgradable(req) ? undefined : 'router');
  const handlers = [
    select,
    nameVersion,
    signIn,
    deps.limits.bucket('uploads'),
    drain.track(createHandler(deps, limits, create)),
    createErrorHandler(deps),
  ];
  return Router().all('/', handlers);
}

const nameVersion: RequestHandler = (req, res, next) => {
  const { version } = dialectOf(req);
  if (version !== undefined) res.setHeader(VERSION_FIELD, version);
  next();
};

function createErrorHandler(deps: ErrorDeps): ErrorRequestHandler {
  return (error, req, res, _next) => answerError(deps, { req, res }, error);
}

function createHandler(
  deps: ResumableDeps,
  limits: Pick<TusLimits, 'countMiss'>,
  work: (deps: ResumableDeps, call: Call) => ReturnType<typeof create>,
): RequestHandler {
  return async (req, res) => {
    const call = openCall(deps.leases, req, res);
    const bound = hooked(deps, req);
    try {
      const answer = await work(bound.deps, call).finally(() => call.end());
      sendAnswer(res, answer, req.method === 'HEAD' ? {} : bound.answer());
    } catch (error) {
      await answerError(deps, call, await noteMiss(deps, limits, call, error), call);
    }
  };
}

/** @throws {AppError} method_not_allowed, not_found */
async function dispatch(deps: ResumableDeps, call: Call): ReturnType<typeof create> {
  const { req, res } = call;
  const { uploadId: id } = req;
  const isEndpoint = /^\/uploads\/?$/.test(req.path);
  if (!id && !isEndpoint) throw new AppError('not_found');
  if (!id && ['POST', 'PUT'].includes(req.method)) return create(deps, call);
  if (id && ['HEAD', 'GET'].includes(req.method)) return look(deps, call, id);
  if (id && req.method === 'PATCH') return append(deps, call, id);
  if (id && req.method === 'DELETE') return cancel(deps, call, id);
  const allowed = id ? 'HEAD, GET, PATCH, DELETE, OPTIONS' : 'POST, PUT, OPTIONS';
  res.setHeader('Allow', allowed);
  throw new AppError('method_not_allowed', { detail: `Allowed: ${allowed}` });
}

/** Counts a request for an upload that does not exist. @returns the error to answer */
async function noteMiss(
  deps: ResumableDeps,
  limits: Pick<TusLimits, 'countMiss'>,
  call: Call,
  error: unknown,
): Promise<unknown> {
  if (!(error instanceof AppError) || (error.code !== 'not_found' && error.code !== 'gone')) return error;
  const id = findUploadId(call.req.path);
  if (id && error.code === 'not_found') await noteForeign(deps, call, id);
  return limits.countMiss(call.req, call.res).then(
    () => error,
    (limited: unknown) => limited,
  );
}
