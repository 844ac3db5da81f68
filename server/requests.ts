import { randomUUID } from 'node:crypto';
import type { RequestHandler } from 'express';
import type { Logger } from '../core/log.js';

declare global {
  namespace Express {
    interface Request {
      /** Of this request, from X-Request-Id or made here; also in the answer and in the job. */
      id: string;
    }
  }
}

/** Gives each request an id and logs how it ended. Query strings are left out: they may hold signatures. */
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

const EXPOSED = [
  ...['X-Request-Id', 'Content-Range', 'ETag', 'Content-Disposition'],
  ...['RateLimit', 'RateLimit-Policy', 'Retry-After'],
].join(', ');

/**
 * Lets pages of other origins read the answers. They bring a token in a header, never cookies. The preflight of
 * /uploads is answered by @tus/server.
 */
export function cors(origins: '*' | string[]): RequestHandler {
  return (req, res, next) => {
    const origin = req.get('Origin');
    const allowed = origins === '*' ? '*' : origins.find((candidate) => candidate === origin);
    if (allowed) res.setHeader('Access-Control-Allow-Origin', allowed);
    if (origins !== '*') res.vary('Origin');
    res.setHeader('Access-Control-Expose-Headers', EXPOSED);
    next();
  };
}

/** Answers the preflight requests of browsers for the REST API. */
export const preflight: RequestHandler = (req, res, next) => {
  if (req.method !== 'OPTIONS' || !req.get('Access-Control-Request-Method')) return next();
  res.setHeader('Access-Control-Allow-Methods', 'GET, HEAD, POST, DELETE');
  res.setHeader(
    'Access-Control-Allow-Headers',
    'Authorization, Content-Type, Range, If-None-Match, If-Range',
  );
  res.setHeader('Access-Control-Max-Age', '86400');
  res.status(204).end();
};
