import { randomUUID } from 'node:crypto';
import type { RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';

declare global {
  namespace Express {
    interface Request {
      /** Id of this request, from X-Request-Id or generated; the answer and the job carry it too. */
      id: string;
    }
  }
}

/** Gives each request an id and logs its outcome. Query strings may contain signatures and are not logged. */
export function requestLog(log: Logger): RequestHandler {
  return (req, res, next) => {
    const given = req.get('X-Request-Id');
    req.id = given && /^[\w.-]{1,128}$/.test(given) ? given : randomUUID();
    res.setHeader('X-Request-Id', req.id);
    const { method, path } = req;
    const started = performance.now();
    res.once('close', () => {
      log.info(
        {
          requestId: req.id,
          method,
          path,
          userId: req.principal?.userId,
          status: res.statusCode,
          ms: Math.round(performance.now() - started),
          ...(res.writableFinished ? {} : { aborted: true }),
        },
        'request',
      );
    });
    next();
  };
}

/** More than any client sends; Node itself silently drops headers beyond 2000. */
const MAX_HEADERS = 100;

/** Refuses requests that no ordinary client sends and that would cause trouble later. */
export const refuseOddities: RequestHandler = (req, _res, next) => {
  if (req.rawHeaders.length > 2 * MAX_HEADERS) {
    throw new AppError('headers_too_large', { detail: `At most ${MAX_HEADERS} headers are taken` });
  }
  // "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a
  // Host header field and to any request message that contains more than one" (RFC 9112, 3.2): a proxy may
  // have used the other one.
  const hosts = req.rawHeaders.filter((text, index) => index % 2 === 0 && text.toLowerCase() === 'host');
  if (hosts.length > 1 || (hosts.length === 0 && req.httpVersion === '1.1')) {
    throw new AppError('invalid_request', { detail: 'Send one Host' });
  }
  // PostgreSQL cannot store this character.
  const query = req.url.indexOf('?');
  if (query >= 0 && req.url.includes('%00', query)) {
    throw new AppError('invalid_request', { detail: 'The query must not hold the character U+0000' });
  }
  next();
};
