import type { Request, RequestHandler } from 'express';
import { AppError } from '../core/errors.js';
import { originOf } from './origin.js';

/** Headers of all answers, tus or not, that pages of other origins may read. */
export const EXPOSED_ALWAYS = ['X-Request-Id', 'Retry-After', 'RateLimit', 'RateLimit-Policy'];

/** Headers of answers outside tus that pages of other origins may read, besides those that are always readable. */
const EXPOSED_HEADERS = [
  ...['Content-Range', 'Content-Length', 'ETag', 'Content-Disposition', 'Location'],
  ...EXPOSED_ALWAYS,
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
    res.setHeader('Access-Control-Expose-Headers', EXPOSED_HEADERS);
    next();
  };
}

/** Answers the preflight requests of browsers for the REST API. */
export const preflight: RequestHandler = (req, res, next) => {
  if (req.method !== 'OPTIONS' || !req.get('Access-Control-Request-Method')) return next();
  res.setHeader('Access-Control-Allow-Methods', 'GET, HEAD, POST, PATCH, DELETE');
  res.setHeader(
    'Access-Control-Allow-Headers',
    'Authorization, Content-Type, Range, If-None-Match, If-Range, X-Request-Id',
  );
  res.setHeader('Access-Control-Max-Age', '86400');
  res.status(204).end();
};

/**
 * For requests that a cookie lets in. `SameSite=Strict` keeps other sites out, but `evil.example.org` is of the same site as
 * `files.example.org`. Requests without an Origin do not come from a page: browsers send it with all but GET and HEAD.
 * @param publicUrl what clients reach this server at; undefined: each request tells
 * @throws {AppError} forbidden when the page that sends it is not ours
 */
export function requireKnownOrigin(req: Request, publicUrl: string | undefined): void {
  const origin = req.get('Origin');
  if (origin === undefined || ['GET', 'HEAD'].includes(req.method)) return;
  // No script can set it. Over plain HTTP, where browsers leave it out, the address tells.
  if (req.get('Sec-Fetch-Site') === 'same-origin') return;
  const own = [originOf(req, publicUrl), originOf(req, undefined)];
  if (own.some((url) => URL.canParse(url) && new URL(url).origin === origin)) return;
  throw new AppError('forbidden', {
    detail:
      'The cookie of this server is taken from its own pages only. If this is one, set PUBLIC_URL or TRUST_PROXY',
  });
}
