import type { Request, RequestHandler } from 'express';
import type { Config } from '../../core/config.js';
import { type Refusal, RefusedError } from '../auth/refusals.js';
import { originOf } from './origin.js';

/** Headers of all answers, tus or not, that pages of other origins may read. */
export const EXPOSED_ALWAYS = [
  'X-Request-Id',
  'Retry-After',
  'RateLimit',
  'RateLimit-Policy',
  'WWW-Authenticate',
];

/**
 * Headers that pages of other origins may send to all routes. A tracing tool adds its own to every request of the page
 * (W3C Trace Context and Baggage, Sentry), and some libraries add X-Requested-With: a preflight that does not allow them
 * would stop the page's requests altogether.
 */
export const ALLOWED_ALWAYS = [
  'X-Request-Id',
  'X-Requested-With',
  ...['traceparent', 'tracestate', 'baggage', 'sentry-trace'],
  ...['If-Match', 'If-None-Match', 'If-Modified-Since', 'If-Unmodified-Since', 'If-Range'],
];

/** Headers of answers outside tus that pages of other origins may read, besides those that are always readable. */
const EXPOSED_HEADERS = [
  ...['Content-Range', 'Content-Length', 'ETag', 'Content-Disposition', 'Location'],
  ...EXPOSED_ALWAYS,
].join(', ');

/**
 * Lets pages of other origins read the answers. They bring a token in a header, never cookies. The preflight of
 * /uploads is answered by @tus/server.
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

/** Answers the preflight requests of browsers for the REST API. @param more headers that pages may send besides */
export function preflight(more: string[]): RequestHandler {
  const headers = [...ALLOWED_ALWAYS, 'Authorization', 'Content-Type', 'Range', ...more].join(', ');
  return (req, res, next) => {
    if (req.method !== 'OPTIONS' || !req.get('Access-Control-Request-Method')) return next();
    res.setHeader('Access-Control-Allow-Methods', 'GET, HEAD, POST, PATCH, DELETE');
    res.setHeader('Access-Control-Allow-Headers', headers);
    res.setHeader('Access-Control-Max-Age', '86400');
    res.status(204).end();
  };
}

/** Pages of which origins may do something that not every page may. */
interface KnownPages {
  /** What clients reach this server at; undefined: each request tells. */
  publicUrl: string | undefined;
  /** Those of which others, besides our own: `*` names none. Undefined: no others. */
  corsOrigins?: Config['corsOrigins'];
}

/**
 * For what a page must not do only because somebody has opened it: to come in by a cookie, or to make an account, of which
 * the first one is the admin's. `SameSite=Strict` keeps other sites from the cookie, but `evil.example.org` is of the same
 * site as `files.example.org`. Requests without an Origin do not come from a page: browsers send it with all but GET and HEAD.
 * @param refusal what it wanted to do, for the event log
 * @throws {AppError} forbidden when the page that sends it is not known
 */
export function requireKnownOrigin(
  req: Request,
  { publicUrl, corsOrigins }: KnownPages,
  refusal: Omit<Refusal, 'code'>,
): void {
  const origin = req.get('Origin');
  if (origin === undefined || ['GET', 'HEAD'].includes(req.method)) return;
  if (isOwnPage(req, origin, publicUrl) || isNamed(origin, corsOrigins)) return;
  const others = corsOrigins ? '; if it is another one of yours, name its origin in CORS_ORIGINS' : '';
  throw new RefusedError(
    'forbidden',
    refusal,
    `Only pages of this server may do this. If this is one, set PUBLIC_URL or TRUST_PROXY${others}`,
  );
}

/** `null` names nobody: every page can send it, from a frame. */
function isNamed(origin: string, origins: KnownPages['corsOrigins']): boolean {
  return Array.isArray(origins) && origin !== 'null' && origins.includes(origin);
}

/** Hosts that are this machine, whatever the DNS says. As URL writes them. */
const THIS_MACHINE = /^(localhost|.+\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

function isOwnPage(req: Request, origin: string, publicUrl: string | undefined): boolean {
  // No script can set it. Over plain HTTP, where browsers leave it out, the address tells.
  if (req.get('Sec-Fetch-Site') === 'same-origin') return true;
  if (publicUrl && new URL(publicUrl).origin === origin) return true;
  const asked = originOf(req, undefined);
  if (!URL.canParse(asked)) return false;
  const own = new URL(asked);
  // Somebody may let the name of a page of theirs mean this machine (DNS rebinding): to the browser it is one of ours then.
  return own.origin === origin && (THIS_MACHINE.test(own.hostname) || !isLocal(req));
}

/** Whether only this machine itself can have asked; not even a proxy on it, as far as we are told. */
function isLocal(req: Request): boolean {
  if (req.app.get('trust proxy')) return false;
  const { localAddress } = req.socket;
  // Of a connection that is gone nobody knows.
  return localAddress === undefined || /^(::1$|(::ffff:)?127\.)/.test(localAddress);
}
