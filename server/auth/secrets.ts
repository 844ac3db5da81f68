import { createHash, randomBytes } from 'node:crypto';

/** A secret of 256 random bits, in 43 characters that need no escaping. */
export function newSecret(): string {
  return randomBytes(32).toString('base64url');
}

/** The hash that is stored of a secret. A secret that cannot be guessed needs no slow hash. */
export function hashSecret(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}
