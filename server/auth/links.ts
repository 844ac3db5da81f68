import { type KeyObject, timingSafeEqual } from 'node:crypto';
import { signatureOf, signPath } from '../../core/signed-path.js';
import type { Principal } from './principal.js';

/*
 * Signed links grant access to exactly one path until they expire. They serve places that cannot send a header (<img>,
 * <video>, EventSource, a download by the browser).
 *
 * `?token=<expiry>.<signature>` opens a resource, whoever has the link. `?token=<expiry>.<caller>.<signature>` opens a
 * path that shows each caller something else, and names the caller: the user, and the session or the API key that made
 * the link. Neither kind passes for the other.
 */

/** The expiry is rounded up to this, so that links repeat and browsers can cache the content. */
const ROUND_SECONDS = 15 * 60;

function isSigned(of: string, expiry: number, signature: string, key: KeyObject): boolean {
  return timingSafeEqual(Buffer.from(signature, 'base64url'), signatureOf(of, expiry, key));
}

/** Seconds since 1970, 15 to 30 minutes from now. */
function nextExpiry(now: number): number {
  return (Math.floor(now / 1000 / ROUND_SECONDS) + 2) * ROUND_SECONDS;
}

/** Makes a link to `path` that is valid for 15 to 30 minutes. */
export function signLink(path: string, key: KeyObject, now = Date.now()): string {
  return signPath(path, nextExpiry(now), key);
}

/** Whether `token` grants access to `path` now. */
export function isLinkValid(path: string, token: string, key: KeyObject, now = Date.now()): boolean {
  const [, expiryText, signature] = /^(\d{1,12})\.([\w-]{43})$/.exec(token) ?? [];
  if (!expiryText || !signature || Number(expiryText) * 1000 < now) return false;
  return isSigned(path, Number(expiryText), signature, key);
}

/** The expiry, and the caller: a user, and `s` with a session or `k` with a key. */
const CALLER_TOKEN = /^(\d{1,12})\.(([0-9a-f-]{36})(?:_([sk])([0-9a-f-]{36}))?)\.([\w-]{43})$/;

/** Makes a link to `path` for this caller. It is valid for 15 to 30 minutes, and no longer than the caller's key. */
export function signCallerLink(
  path: string,
  { userId, sessionId, key: apiKey, expiresAt }: Principal,
  key: KeyObject,
  now = Date.now(),
): { url: string; expiresAt: Date } {
  const keyExpiry = apiKey && expiresAt ? Math.floor(expiresAt.getTime() / 1000) : Number.POSITIVE_INFINITY;
  const expiry = Math.min(nextExpiry(now), keyExpiry);
  const caller = `${userId}${apiKey ? `_k${apiKey.id}` : sessionId ? `_s${sessionId}` : ''}`;
  const signature = signatureOf(`${path}\n${caller}`, expiry, key).toString('base64url');
  return { url: `${path}?token=${expiry}.${caller}.${signature}`, expiresAt: new Date(expiry * 1000) };
}

/** The caller for whom `token` grants access to `path` now: a user who may only read. Undefined: it grants none. */
export function readCallerLink(
  path: string,
  token: string,
  key: KeyObject,
  now = Date.now(),
): Principal | undefined {
  const [, expiryText, caller, userId, kind, id, signature] = CALLER_TOKEN.exec(token) ?? [];
  if (!expiryText || !userId || !signature || Number(expiryText) * 1000 < now) return undefined;
  const expiry = Number(expiryText);
  if (!isSigned(`${path}\n${caller}`, expiry, signature, key)) return undefined;
  return {
    userId,
    role: 'user',
    expiresAt: new Date(expiry * 1000),
    ...(kind === 's' && id ? { sessionId: id } : {}),
    ...(kind === 'k' && id ? { key: { id, scopes: ['read'] } } : {}),
  };
}

/** Whether the expiry in a link's token has passed. The token may be forged. */
export function isLinkOver(token: string, now = Date.now()): boolean {
  const [, expiryText] = /^(\d{1,12})\./.exec(token) ?? [];
  return expiryText !== undefined && Number(expiryText) * 1000 < now;
}
