import { createRemoteJWKSet, decodeProtectedHeader, errors, type JWTVerifyGetKey, jwtVerify } from 'jose';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { IdentityProvider } from '../../core/config.js';
import type { Actor } from '../../core/database/entities/event.js';
import { AppError } from '../../core/errors.js';
import { findOrCreateExternal } from './accounts.js';
import type { Principal } from './principal.js';
import { notValid } from './tokens.js';

/** Takes access tokens of an identity provider. The actor is who brings one, as far as that is known without it. */
export type VerifyExternal = (token: string, actor: Actor) => Promise<Principal>;

/** How long the keys of the provider are waited for, in milliseconds. */
const KEYS_TIMEOUT_MS = 5_000;

const claims = z.object({
  sub: z.string().min(1).max(255),
  iss: z.string().max(1000).optional(),
  email: z.email().max(254).optional(),
});

/** Whether a token says that it is signed with a private key, as ours are not. It is not verified here. */
export function isExternal(token: string): boolean {
  try {
    return ['RS256', 'ES256'].includes(decodeProtectedHeader(token).alg ?? '');
  } catch {
    return false;
  }
}

/**
 * Verifies tokens of the provider and finds their accounts; who comes for the first time gets one. Roles are ours: what
 * a token says of them is for other applications.
 * @throws {AppError} unauthenticated; unavailable when the keys cannot be fetched (from the function that it makes)
 */
export function createVerifyExternal(provider: IdentityProvider, database: DataSource): VerifyExternal {
  const { keys, issuer, audience } = provider;
  const getKey: JWTVerifyGetKey =
    'jwksUrl' in keys
      ? createRemoteJWKSet(new URL(keys.jwksUrl), { timeoutDuration: KEYS_TIMEOUT_MS })
      : async () => keys.publicKey;
  const options = {
    algorithms: ['RS256', 'ES256'],
    requiredClaims: ['sub', 'exp'],
    ...(issuer ? { issuer } : {}),
    ...(audience ? { audience } : {}),
  };

  return async (token, actor) => {
    const { payload } = await jwtVerify(token, getKey, options).catch((error: unknown) => {
      throw isKeysAway(error) ? keysAway(error) : notValid(error, error instanceof errors.JWTExpired);
    });
    const parsed = claims.safeParse(payload);
    if (!parsed.success) throw notValid(parsed.error, false);
    const { sub, iss, email } = parsed.data;
    const user = await findOrCreateExternal(database, `${iss ?? ''}|${sub}`, email ?? sub, actor);
    if (user.disabledAt) throw new AppError('unauthenticated', { detail: 'This account is disabled' });
    return { userId: user.id, role: user.role };
  };
}

/** Whether it is the provider that failed, and not the token. */
function isKeysAway(error: unknown): boolean {
  if (error instanceof errors.JWKSTimeout) return true;
  // Of the address of the keys it throws what fetch() throws, or an error of its own of no special kind.
  return !(error instanceof errors.JOSEError) || error.code === 'ERR_JOSE_GENERIC';
}

function keysAway(cause: unknown): AppError {
  return new AppError('unavailable', {
    detail: 'The keys of the identity provider cannot be fetched at the moment',
    cause,
    retryable: true,
  });
}
