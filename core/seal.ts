import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';

/*
 * Secrets that have to be stored in a form that can be read again: kept answers, which may hold API keys, tokens and
 * signed links, and the secrets of webhooks. They are encrypted (AES-256-GCM) with a key that is derived from JWT_SECRET
 * and is not in the database.
 */

const CIPHER = 'aes-256-gcm';

/** Bytes of the nonce, which GCM wants to be unique, and of the tag. */
const NONCE = 12;
const TAG = 16;

/** Derives a key by HKDF (RFC 5869). A key is for one purpose only. @param secret JWT_SECRET */
export function deriveKey(secret: string, purpose: string): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync('sha256', secret, 'landfall', purpose, 32)));
}

/** @param id of what the text belongs to; the sealed text opens for this id only */
export function seal(text: string, id: Buffer, key: KeyObject): Buffer {
  const nonce = randomBytes(NONCE);
  const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG }).setAAD(id);
  const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed]);
}

/** @returns undefined if it was sealed for another id or with another key, or was changed */
export function unseal(sealed: Buffer, id: Buffer, key: KeyObject): string | undefined {
  try {
    const decipher = createDecipheriv(CIPHER, key, sealed.subarray(0, NONCE), { authTagLength: TAG })
      .setAAD(id)
      .setAuthTag(sealed.subarray(NONCE, NONCE + TAG));
    return decipher.update(sealed.subarray(NONCE + TAG), undefined, 'utf8') + decipher.final('utf8');
  } catch {
    return undefined;
  }
}
