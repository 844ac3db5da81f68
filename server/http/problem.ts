import type { ErrorRequestHandler, RequestHandler, Response } from 'express';
import type { z } from 'zod';
import { isConflict, isDatabaseAway } from '../../core/database/outage.js';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import { UploadRefused } from '../../core/uploads/hooks.js';
import type { problem } from '../answers/shapes.js';
import { noteIfRefused, type Refusals } from '../auth/refusals.js';
import { TokenExpired } from '../auth/tokens.js';
import { setHookHeaders } from '../uploads/hooked.js';

/** Answers requests that no route took. */
export const notFound: RequestHandler = () => {
  throw new AppError('not_found');
};

/** Headers that a handler may have set for content that will not be sent. */
const CONTENT_HEADERS = ['ETag', 'Last-Modified', 'Accept-Ranges', 'Content-Disposition', 'Content-Encoding'];

/** Answers an error as application/problem+json (RFC 9457), except in tus. */
export function problemHandler(log: Logger, refusals: Refusals): ErrorRequestHandler {
  return async (thrown, req, res, _next) => {
    const error = toAppError(thrown);
    noteIfRefused(refusals, req, error);
    if (error.status >= 500) log.error({ err: thrown, requestId: req.id }, 'request failed');
    await refusals.whenWritten(req);
    if (res.headersSent || res.destroyed) {
      // Part of an answer is out: only breaking the connection tells the client that the rest will not come.
      res.destroy();
      return;
    }
    for (const name of CONTENT_HEADERS) res.removeHeader(name);
    res.setHeader('Cache-Control', 'no-store');
    setErrorHeaders(res, error);
    // Outside of the upload protocols the status and the form of a refusal are declared, so a hook chooses its text only.
    if (error instanceof UploadRefused && error.answer) setHookHeaders(res, error.answer);
    res.status(error.status).type('application/problem+json').send(problemJson(error));
  };
}

/** An error as clients read it (RFC 9457). */
export function toProblem({ title, status, code, detail }: AppError): z.output<typeof problem> {
  return { type: 'about:blank', title, status, code, ...(detail ? { detail } : {}) };
}

/** The body of an error answer. */
export function problemJson(error: AppError): string {
  return JSON.stringify(toProblem(error));
}

/**
 * When a client may repeat a request that failed for a passing reason: by then a load balancer has found
 * another server, or this one has been restarted.
 */
const RETRY_AFTER_SECONDS = 2;

/** Sets the headers that go with an error, whatever the format of the answer. */
export function setErrorHeaders(res: Response, { status, retryable, cause }: AppError): void {
  // RFC 9110, 15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field".
  if (status === 401) res.setHeader('WWW-Authenticate', 'Bearer');
  // "A server MAY generate a WWW-Authenticate header field in other response messages to indicate that supplying
  // credentials (or different credentials) might affect the response" (RFC 9110, 11.6.1).
  if (cause instanceof TokenExpired) res.setHeader('WWW-Authenticate', 'Bearer error="invalid_token"');
  const passes = (status === 503 && retryable) || cause instanceof TokenExpired;
  if (passes && !res.hasHeader('Retry-After')) {
    res.setHeader('Retry-After', RETRY_AFTER_SECONDS);
  }
}

/**
 * Translates the error of a HEAD request for an upload. Clients take any failed HEAD except 423 for the loss
 * of the upload and send all of it again. So a database that is away and an expired access token are answered
 * with 423: the upload still exists, and the same request works when the server is back, or with a fresh
 * token.
 */
export function lockedForNow(thrown: unknown): unknown {
  const { status, detail, title } = toAppError(thrown);
  if (status < 500 && !(thrown instanceof TokenExpired)) return thrown;
  return new AppError('locked', { detail: detail ?? title, cause: thrown, retryable: true });
}

/** The error that a client sees: an AppError as it is, any other error as a status without details. */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  // Express throws errors with a status and says itself whether to show the message.
  const { status, expose, message } = (thrown ?? {}) as {
    status?: number;
    expose?: boolean;
    message?: string;
  };
  if (status && status < 500) {
    return new AppError('invalid_request', {
      cause: thrown,
      ...(expose && message ? { detail: message } : {}),
    });
  }
  if (isConflict(thrown)) {
    const detail = 'Another request was changing the same data: try again';
    return new AppError('unavailable', { detail, cause: thrown, retryable: true });
  }
  if (isDatabaseAway(thrown)) {
    const detail = 'The database cannot be used at the moment: try again';
    return new AppError('unavailable', { detail, cause: thrown, retryable: true });
  }
  return new AppError('internal', { cause: thrown });
}
