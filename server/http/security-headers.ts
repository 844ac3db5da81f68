import type { Request, RequestHandler, Response } from 'express';
import helmet from 'helmet';
import { isLoopback } from '../../core/loopback.js';
import { isEncrypted } from './origin.js';

/*
 * Headers that restrict browsers. Every answer gets the strictest policy, which suits everything that is not
 * a document: JSON, tus, scripts. The page, the board and the content of files relax it as needed.
 */

const YEAR_SECONDS = 31_536_000;

const NONE = ["'none'"];
const NOWHERE = { baseUri: NONE, formAction: NONE, frameAncestors: NONE };

/** @param publicUrl the URL at which clients reach this server; undefined: each request tells it */
export function securityHeaders(publicUrl: string | undefined): RequestHandler[] {
  const isPublicEncrypted = publicUrl?.startsWith('https:') ?? false;
  const strictTransport = helmet.strictTransportSecurity({ maxAge: YEAR_SECONDS, includeSubDomains: false });
  return [
    helmet({
      contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: NONE, ...NOWHERE } },
      // Links to content carry a signature that other sites must not see.
      referrerPolicy: { policy: 'no-referrer' },
      xFrameOptions: { action: 'deny' },
      // Set below: it means nothing over plain HTTP, and other ports of localhost are not this server's.
      strictTransportSecurity: false,
    }),
    (req, res, next) => (isPublicEncrypted || isLasting(req) ? strictTransport(req, res, next) : next()),
  ];
}

/** Whether to tell the browser to keep using TLS for this host: at localhost, other ports belong to other programs. */
function isLasting(req: Request): boolean {
  const isDirect = 'encrypted' in req.socket;
  return isEncrypted(req) && !(isDirect && isLoopback(req.hostname ?? ''));
}

/**
 * The policy of a page. It has no inline code and connects only to this server and to the origin of the content.
 * @param findContentOrigin returns undefined if the content comes from this server
 * @param inlineStyles whether the page adds style elements of its own
 */
export function pagePolicy(
  findContentOrigin: () => Promise<string | undefined>,
  { inlineStyles = false } = {},
): RequestHandler {
  return async (req, res, next) => {
    const origin = await findContentOrigin();
    const content = origin ? [origin] : [];
    const policy = helmet.contentSecurityPolicy({
      useDefaults: false,
      directives: {
        defaultSrc: NONE,
        scriptSrc: ["'self'"],
        styleSrc: ["'self'", ...(inlineStyles ? ["'unsafe-inline'"] : [])],
        fontSrc: ["'self'"],
        imgSrc: ["'self'", 'blob:', 'data:', ...content],
        mediaSrc: ["'self'", 'blob:', ...content],
        connectSrc: ["'self'", ...content],
        workerSrc: ["'self'", 'blob:'],
        ...NOWHERE,
      },
    });
    keepOwnOrigin(res);
    policy(req, res, next);
  };
}

/** Bull Board contains inline scripts and asks for a font of another origin. */
export const boardPolicy: RequestHandler = (_req, res, next) => {
  res.setHeader(
    'Content-Security-Policy',
    [
      "default-src 'self' 'unsafe-inline'",
      "img-src 'self' data:",
      "font-src 'self' data:",
      "object-src 'none'",
      "base-uri 'self'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ].join('; '),
  );
  keepOwnOrigin(res);
  next();
};

/** With `no-referrer` some browsers send `Origin: null` even to the page's own server. */
function keepOwnOrigin(res: Response): void {
  res.setHeader('Referrer-Policy', 'same-origin');
}

/**
 * For content that users have sent. However a browser treats it, it gets no scripts, no forms and no origin.
 * Pages of other origins may show it: they have a link, and the link alone grants access.
 */
export function allowEmbedding(res: Response): void {
  res.setHeader('Content-Security-Policy', "default-src 'none'; sandbox");
  res.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
  res.setHeader('X-Frame-Options', 'SAMEORIGIN');
}
