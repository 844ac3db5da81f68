import { createHmac, timingSafeEqual } from 'node:crypto';

/*
 * The form of refresh tokens: `<secret>.<session>.<seal>`. The secret makes a token valid as long as its hash
 * is stored. The seal, an HMAC with a key of the session, only proves that the token was issued in that
 * session. So a token whose hash is no longer stored is still recognised as a used one.
 */

const SEALED = /^[\w-]{43}\.([\w-]{22})\.([\w-]{22})$/;

/** Bytes of a seal. */
const LENGTH = 16;

/** @param secret 43 characters of base64url */
export function sealToken(secret: string, sessionId: string, key: Buffer): string {
  const session = Buffer.from(sessionId.replaceAll('-', ''), 'hex').toString('base64url');
  const text = `${secret}.${session}`;
  return `${text}.${sealOf(text, key).toString('base64url')}`;
}

/** The session id that a token claims; undefined if the token is not ours or of an earlier version. */
export function namedSession(token: string): string | undefined {
  const [, session] = SEALED.exec(token) ?? [];
  if (session === undefined) return undefined;
  const hex = Buffer.from(session, 'base64url').toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** Whether a token was issued in the session with this key. */
export function isSealed(token: string, key: Buffer): boolean {
  const [, , seal] = SEALED.exec(token) ?? [];
  if (seal === undefined) return false;
  const text = token.slice(0, token.lastIndexOf('.'));
  return timingSafeEqual(Buffer.from(seal, 'base64url'), sealOf(text, key));
}

function sealOf(text: string, key: Buffer): Buffer {
  return createHmac('sha256', key).update(text).digest().subarray(0, LENGTH);
}
