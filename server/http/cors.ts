import type { Request, RequestHandler } from 'express';
import type { Config } from '../../core/config.js';
import { isLoopback } from '../../core/loopback.js';
import { type Refusal, RefusedError } from '../auth/refusals.js';
import { originOf } from './origin.js';

/** Headers of all answers, tus or not, that pages of other origins may read. */
export const EXPOSED_ALWAYS = [
  'X-Request-Id',
  'Retry-After',
  'RateLimit',
  'RateLimit-Policy',
  'WWW-Authenticate',
  ...[
    'Upload-Draft-Interop-Version',
    'Upload-Complete',
    'Upload-Incomplete',
    'Upload-Length',
    'Upload-Limit',
  ],
  'Repr-Digest',
];

/**
 * Headers that pages of other origins may send to all routes. A tracing tool adds its headers to every
 * request of a page (W3C Trace Context and Baggage, Sentry), and some libraries add X-Requested-With. A
 * preflight that does not allow these headers would stop all requests of the page. Resumable uploads for HTTP begin at
 * `/api/files` too; tus-js-client describes them by Upload-Metadata, as in tus.
 */
export const ALLOWED_ALWAYS = [
  'X-Request-Id',
  'X-Requested-With',
  'Idempotency-Key',
  ...['traceparent', 'tracestate', 'baggage', 'sentry-trace'],
  ...['If-Match', 'If-None-Match', 'If-Modified-Since', 'If-Unmodified-Since', 'If-Range'],
  ...[
    'Upload-Draft-Interop-Version',
    'Upload-Complete',
    'Upload-Incomplete',
    'Upload-Length',
    'Upload-Offset',
    'Upload-Metadata',
    'Incremental',
  ],
  ...['Content-Digest', 'Repr-Digest', 'Want-Repr-Digest', 'Content-Disposition', 'Content-Encoding'],
];

/** Headers of answers outside tus that pages of other origins may read, besides the always readable ones. */
const EXPOSED_HEADERS = [
  ...['Content-Range', 'Content-Length', 'ETag', 'Content-Disposition', 'Location', 'Upload-Offset'],
  'Idempotency-Replayed',
  ...['X-Original-Size', 'X-Compression-Ratio', 'X-Processing-Time'],
  ...EXPOSED_ALWAYS,
].join(', ');

/**
 * Lets pages of other origins read the answers. Such pages send a token in a header, never cookies. The
 * preflight of /uploads is answered by tus/options.ts.
 */
export function cors(origins: Config['corsOrigins']): RequestHandler {
  return (req, res, next) => {
    const origin = req.get('Origin');
    const allowed = origins === '*' ? '*' : origins.find((candidate) => candidate === origin);
    if (allowed) res.setHeader('Access-Control-Allow-Origin', allowed);
    if (origins !== '*') res.vary('Origin');
    res.setHeader('Access-Control-Expose-Headers', EXPOSED_HEADERS);
    next();
  };
}

/** Answers preflight requests for the REST API. @param more further headers that pages may send */
export function preflight(more: string[]): RequestHandler {
  const headers = [
    ...ALLOWED_ALWAYS,
    'Authorization',
    'Content-Type',
    'Range',
    'Last-Event-ID',
    ...more,
  ].join(', ');
  return (req, res, next) => {
    if (req.method !== 'OPTIONS' || !req.get('Access-Control-Request-Method')) return next();
    res.setHeader('Access-Control-Allow-Methods', 'GET, HEAD, POST, PUT, PATCH, DELETE');
    res.setHeader('Access-Control-Allow-Headers', headers);
    res.setHeader('Access-Control-Max-Age', '86400');
    res.status(204).end();
  };
}

/** The pages that may do more than any page may. */
export interface KnownPages {
  /** The URL at which clients reach this server; undefined: each request tells it. */
  publicUrl: string | undefined;
  /** The origins of other pages that are allowed too; `*` allows none. Undefined: no others. */
  corsOrigins?: Config['corsOrigins'] | undefined;
}

/**
 * Guards actions that a page must not trigger merely because somebody has opened it: signing in by a cookie,
 * or creating an account, of which the first one is an admin's. `SameSite=Strict` hides the cookie from other
 * sites, but `evil.example.org` and `files.example.org` are the same site. Requests without an Origin do not
 * come from a page: browsers send it with every method except GET and HEAD.
 * @param refusal the refused action, for the event log
 * @throws {AppError} forbidden when the page of the request is not known
 */
export function requireKnownOrigin(
  req: Request,
  { publicUrl, corsOrigins }: KnownPages,
  refusal: Omit<Refusal, 'code'>,
): void {
  const origin = req.get('Origin');
  if (origin === undefined || ['GET', 'HEAD'].includes(req.method)) return;
  if (isKnownPage(req, origin, { publicUrl, corsOrigins })) return;
  const others = corsOrigins ? '; if it is another one of yours, name its origin in CORS_ORIGINS' : '';
  throw new RefusedError(
    'forbidden',
    refusal,
    `Only pages of this server may do this. If this is one, set PUBLIC_URL or TRUST_PROXY${others}`,
  );
}

/** Whether the page at `origin`, which has sent the request, is a page of this server or one of the others. */
export function isKnownPage(req: Request, origin: string, { publicUrl, corsOrigins }: KnownPages): boolean {
  return isOwnPage(req, origin, publicUrl) || isNamed(origin, corsOrigins);
}

/** `null` matches no page: every page can send it from a frame. */
function isNamed(origin: string, origins: KnownPages['corsOrigins']): boolean {
  return Array.isArray(origins) && origin !== 'null' && origins.includes(origin);
}

function isOwnPage(req: Request, origin: string, publicUrl: string | undefined): boolean {
  // No script can set this header. Browsers omit it over plain HTTP; then the address decides.
  if (req.get('Sec-Fetch-Site') === 'same-origin') return true;
  if (publicUrl && new URL(publicUrl).origin === origin) return true;
  const asked = originOf(req, undefined);
  if (!URL.canParse(asked)) return false;
  const own = new URL(asked);
  // DNS rebinding can point the name of a foreign page at this machine, and it then looks like our page.
  return own.origin === origin && (isLoopback(own.hostname) || !isLocal(req));
}

/**
 * Whether only a client on this machine can have sent the request, without any proxy that the settings name.
 */
function isLocal(req: Request): boolean {
  if (req.app.get('trust proxy')) return false;
  const { localAddress } = req.socket;
  // The address of a closed connection is unknown.
  return localAddress === undefined || /^(::1$|(::ffff:)?127\.)/.test(localAddress);
}
