import { createHmac, type KeyObject } from 'node:crypto';
import { deriveKey } from './seal.js';

/* Signed addresses, as server and worker make them. server/auth/links.ts has their rules, and reads them. */

/** @param jwtSecret server and workers have the same */
export function deriveLinkKey(jwtSecret: string): KeyObject {
  return deriveKey(jwtSecret, 'signed link');
}

/**
 * @param of the path, and what else the signature covers; a path has no line breaks
 * @param expiry seconds since 1970
 */
export function signatureOf(of: string, expiry: number, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(`${expiry}\n${of}`).digest();
}

/** Makes the address that opens this path to its holder. @param expiry seconds since 1970 */
export function signPath(path: string, expiry: number, key: KeyObject): string {
  return `${path}?token=${expiry}.${signatureOf(path, expiry, key).toString('base64url')}`;
}
