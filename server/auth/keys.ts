import type { KeyObject } from 'node:crypto';
import { deriveAnswerKey } from '../../core/own-steps/token.js';
import { deriveKey } from '../../core/seal.js';
import { deriveLinkKey } from '../../core/signed-path.js';
import { deriveWebhookKey } from '../../core/webhooks/secrets.js';

/** Keys derived from one secret, so that a token made for one purpose is useless for another. */
export interface Keys {
  access: KeyObject;
  refresh: KeyObject;
  board: KeyObject;
  /** Of signed addresses. The worker derives it too. */
  link: KeyObject;
  /** Of the tokens with which outside services answer steps. The worker makes them. */
  stepAnswer: KeyObject;
  uploadToken: KeyObject;
  /** Signs the addresses of uploads whose senders only a hook knows. */
  uploadAddress: KeyObject;
  /** Hashes account names in the counts of the rate limits. */
  limitedAccount: KeyObject;
  /** Encrypts the answers that are kept for repeated requests. */
  keptAnswer: KeyObject;
  /** Encrypts the secrets of webhooks. The worker derives it too. */
  webhookSecret: KeyObject;
}

/** Derives a key for each purpose. */
export function deriveKeys(secret: string): Keys {
  const key = (purpose: string) => deriveKey(secret, purpose);
  return {
    access: key('access token'),
    refresh: key('refresh token'),
    board: key('board cookie'),
    link: deriveLinkKey(secret),
    uploadToken: key('upload token'),
    uploadAddress: key('upload address'),
    limitedAccount: key('account in rate limits'),
    keptAnswer: key('kept answer'),
    stepAnswer: deriveAnswerKey(secret),
    webhookSecret: deriveWebhookKey(secret),
  };
}
