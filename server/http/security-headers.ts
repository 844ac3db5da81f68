import type { RequestHandler, Response } from 'express';
import helmet from 'helmet';
import { isEncrypted } from './origin.js';

/*
 * What browsers are told about the answers. Everything gets the strictest, which fits whatever is no document: JSON, tus,
 * scripts. The page, the board and the content of files loosen what they need.
 */

const YEAR_SECONDS = 31_536_000;

const NONE = ["'none'"];
const NOWHERE = { baseUri: NONE, formAction: NONE, frameAncestors: NONE };

/** @param publicUrl what clients reach this server at; undefined: each request tells */
export function securityHeaders(publicUrl: string | undefined): RequestHandler[] {
  const isPublicEncrypted = publicUrl?.startsWith('https:') ?? false;
  const strictTransport = helmet.strictTransportSecurity({ maxAge: YEAR_SECONDS, includeSubDomains: false });
  return [
    helmet({
      contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: NONE, ...NOWHERE } },
      // Links to content carry a signature, which is nobody else's business.
      referrerPolicy: { policy: 'no-referrer' },
      xFrameOptions: { action: 'deny' },
      // Below: over plain HTTP it means nothing, and other ports of localhost are not ours.
      strictTransportSecurity: false,
    }),
    (req, res, next) => (isPublicEncrypted || isEncrypted(req) ? strictTransport(req, res, next) : next()),
  ];
}

/**
 * The policy of the page. Nothing in it is inline, and it talks to this server only, and to where its content comes from.
 * @param findContentOrigin undefined: content comes from this server
 */
export function pagePolicy(findContentOrigin: () => Promise<string | undefined>): RequestHandler {
  return async (req, res, next) => {
    const origin = await findContentOrigin();
    const content = origin ? [origin] : [];
    const policy = helmet.contentSecurityPolicy({
      useDefaults: false,
      directives: {
        defaultSrc: NONE,
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
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

/** Bull Board carries inline script and wants a font from elsewhere. */
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

/** With `no-referrer` some browsers send `Origin: null` to the page's own server. */
function keepOwnOrigin(res: Response): void {
  res.setHeader('Referrer-Policy', 'same-origin');
}

/**
 * For what users have sent. Whatever a browser makes of it, it gets no script, no form and no origin. Pages of other
 * origins may show it: they have been given a link, which is all that it takes to read it.
 */
export function allowEmbedding(res: Response): void {
  res.setHeader('Content-Security-Policy', "default-src 'none'; sandbox");
  res.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
  res.setHeader('X-Frame-Options', 'SAMEORIGIN');
}
