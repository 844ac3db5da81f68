import { type KeyObject, randomBytes } from 'node:crypto';
import { deriveKey, seal, unseal } from '../seal.js';

/*
 * The secret with which a webhook's messages are signed: `whsec_` and Base64 (Standard Webhooks). The signer needs the
 * secret itself, so a hash would not do. It is stored encrypted, and opens for its webhook only.
 */

const PREFIX = 'whsec_';

/** Standard Webhooks: "between 24 bytes (192 bits) and 64 bytes (512 bits)". */
const BYTES = 32;

/** The key that encrypts the secrets. @param jwtSecret server and workers have the same */
export function deriveWebhookKey(jwtSecret: string): KeyObject {
  return deriveKey(jwtSecret, 'webhook secret');
}

/** @returns the secret as its owner gets it, and as it is stored */
export function newWebhookSecret(webhookId: string, key: KeyObject): { secret: string; sealed: Buffer } {
  const secret = `${PREFIX}${randomBytes(BYTES).toString('base64')}`;
  return { secret, sealed: seal(secret, Buffer.from(webhookId), key) };
}

/** The bytes of a stored secret; undefined if it was stored with another JWT_SECRET. */
export function openWebhookSecret(sealed: Buffer, webhookId: string, key: KeyObject): Buffer | undefined {
  const secret = unseal(sealed, Buffer.from(webhookId), key);
  return secret === undefined ? undefined : Buffer.from(secret.slice(PREFIX.length), 'base64');
}

/** The bytes of a secret as its owner writes it, `whsec_` and Base64; undefined if it is none, or too short or too long. */
export function readWebhookSecret(text: string): Buffer | undefined {
  const [, base64] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(text) ?? [];
  const bytes = base64 === undefined ? undefined : Buffer.from(base64, 'base64');
  return bytes && bytes.length >= 24 && bytes.length <= 64 ? bytes : undefined;
}
