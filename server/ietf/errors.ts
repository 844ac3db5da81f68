import type { Request, Response } from 'express';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import { LeaseLost } from '../../core/uploads/errors.js';
import { UploadRefused } from '../../core/uploads/hooks.js';
import { noteIfRefused, type Refusals } from '../auth/refusals.js';
import { TokenExpired } from '../auth/tokens.js';
import { setErrorHeaders, toAppError, toProblem } from '../http/problem.js';
import { setHookHeaders } from '../uploads/hooked.js';
import { type Call, completeness } from './call.js';
import { limitsOf } from './limits.js';
import { ContentMismatch, LetGo, UploadProblem } from './problems.js';
import { dialectOf } from './versions.js';

export interface ErrorDeps {
  refusals: Refusals;
  log: Logger;
  maxUploadSize: number;
}

/** Errors of the file, and not of its transfer. */
const VERDICTS = ['checksum_mismatch', 'type_not_allowed', 'refused'];

/**
 * Answers an error; or cuts the connection, if the client is to come again: Apple's URLSession resumes when a connection
 * breaks, and not when it is answered with a 5xx.
 * @param call undefined: the request was refused before anything was done
 */
export async function answerError(
  deps: ErrorDeps,
  { req, res }: { req: Request; res: Response },
  thrown: unknown,
  call?: Call,
): Promise<void> {
  const error = toAppError(thrown);
  noteIfRefused(deps.refusals, req, error);
  if (error.status >= 500 && !(error instanceof LetGo) && !res.destroyed) {
    deps.log.error({ err: thrown, requestId: req.id, uploadId: req.uploadId }, 'request failed');
  }
  await deps.refusals.whenWritten(req);
  const knowsWhere = call?.located ?? !['POST', 'PUT', 'DELETE'].includes(req.method);
  if (res.headersSent || res.destroyed || (knowsWhere && isToComeAgain(error))) {
    req.socket.destroy();
    return;
  }
  const dialect = dialectOf(req);
  setErrorHeaders(res, error);
  if (error.status === 413) {
    const allowed = req.principal?.uploadToken?.maxSize ?? deps.maxUploadSize;
    const maxUploadSize = Math.min(deps.maxUploadSize, allowed);
    setAll(res, limitsOf({ maxUploadSize }, dialect, call?.lease?.upload));
  }
  if (dialect.tellsOnErrors && ['POST', 'PUT', 'PATCH'].includes(req.method)) {
    setAll(res, completeness(dialect, isFinal(req, error, call)));
  }
  const hook = error instanceof UploadRefused ? error.answer : undefined;
  if (hook) setHookHeaders(res, hook);
  if (hook?.body !== undefined) {
    res.status(hook.status ?? error.status).end(hook.body);
    return;
  }
  if (error instanceof UploadProblem) setAll(res, error.headers);
  res.setHeader('Cache-Control', 'no-store');
  // Versions 3 to 6: "If the server does not consider the upload resource to be active, it MUST respond with a 404".
  const isForgotten = dialect.forgetsEnded && error.code === 'gone';
  const told = isForgotten ? new AppError('not_found') : error;
  res
    .status(hook?.status ?? told.status)
    .type('application/problem+json')
    .send(toJson(told));
}

function toJson(error: AppError): string {
  const more = error instanceof UploadProblem ? { type: error.type, ...error.members } : {};
  return JSON.stringify({ ...toProblem(error), ...more });
}

function setAll(res: Response, headers: Record<string, string>): void {
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
}

/** Whether the same client may go on with the same upload in a moment. */
function isToComeAgain(error: AppError): boolean {
  if (error instanceof LetGo || error instanceof LeaseLost) return true;
  if (error.cause instanceof TokenExpired) return false;
  return error.code === 'unavailable' || error.code === 'locked';
}

/**
 * Whether the answer is that of the resource to which the upload was sent: "Note that Upload-Complete can be true even
 * when the full representation data was not transmitted in the case that the server decides to generate an early response
 * when processing the targeted resource."
 */
function isFinal({ method }: Request, error: AppError, call: Call | undefined): boolean {
  if (error instanceof UploadProblem || error instanceof ContentMismatch) return false;
  if (VERDICTS.includes(error.code)) return true;
  return method !== 'PATCH' && call?.lease === undefined;
}
