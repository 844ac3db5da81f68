import type { Request, RequestHandler } from 'express';
import { AppError } from '../core/errors.js';
import { originOf } from './origin.js';

/** Headers of answers that pages of other origins may read, besides those that are always readable. */
const EXPOSED_HEADERS = [
  ...['X-Request-Id', 'Content-Range', 'Content-Length', 'ETag', 'Content-Disposition', 'Location'],
  ...['Retry-After', 'RateLimit', 'RateLimit-Policy'],
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

/** Where pages may come from that act with our cookies. */
export interface Origins {
  publicUrl: string | undefined;
  corsOrigins: '*' | string[];
}

/**
 * For requests that a cookie lets in. `SameSite=Strict` keeps other sites out, but `evil.example.org` is of the same site as
 * `files.example.org`. Requests without an Origin do not come from a page: browsers send it with all but GET and HEAD.
 * @throws {AppError} forbidden when the page that sends it is neither ours nor one of CORS_ORIGINS
 */
export function requireKnownOrigin(req: Request, { publicUrl, corsOrigins }: Origins): void {
  const origin = req.get('Origin');
  if (origin === undefined || ['GET', 'HEAD'].includes(req.method)) return;
  // No script can set it. Over plain HTTP, where browsers leave it out, the address tells.
  if (req.get('Sec-Fetch-Site') === 'same-origin') return;
  if (corsOrigins !== '*' && corsOrigins.includes(origin)) return;
  const own = [originOf(req, publicUrl), originOf(req, undefined)];
  if (own.some((url) => URL.canParse(url) && new URL(url).origin === origin)) return;
  throw new AppError('forbidden', {
    detail:
      'The cookie of this server is taken from its own pages only. If this is one, set PUBLIC_URL or TRUST_PROXY',
  });
}
