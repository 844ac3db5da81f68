import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';

/*
 * Signed links: `?token=<expiry>.<signature>` grants access to exactly one path until it expires. They serve
 * places that cannot send a header (<img>, <video>, a download by the browser).
 */

/** The expiry is rounded up to this, so that links repeat and browsers can cache the content. */
const ROUND_SECONDS = 15 * 60;

function sign(path: string, expiry: number, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(`${expiry}\n${path}`).digest();
}

/** Makes a link to `path` that is valid for 15 to 30 minutes. */
export function signLink(path: string, key: KeyObject, now = Date.now()): string {
  const expiry = (Math.floor(now / 1000 / ROUND_SECONDS) + 2) * ROUND_SECONDS;
  return `${path}?token=${expiry}.${sign(path, expiry, key).toString('base64url')}`;
}

/** Whether `token` grants access to `path` now. */
export function isLinkValid(path: string, token: string, key: KeyObject, now = Date.now()): boolean {
  const [, expiryText, signature] = /^(\d{1,12})\.([\w-]{43})$/.exec(token) ?? [];
  if (!expiryText || !signature || Number(expiryText) * 1000 < now) return false;
  return timingSafeEqual(Buffer.from(signature, 'base64url'), sign(path, Number(expiryText), key));
}

/** Whether the expiry in a link's token has passed. The token may be forged. */
export function isLinkOver(token: string, now = Date.now()): boolean {
  const [, expiryText] = /^(\d{1,12})\./.exec(token) ?? [];
  return expiryText !== undefined && Number(expiryText) * 1000 < now;
}
