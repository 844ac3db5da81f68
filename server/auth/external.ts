import { createRemoteJWKSet, decodeProtectedHeader, errors, type JWTVerifyGetKey, jwtVerify } from 'jose';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { IdentityProvider } from '../../core/config-groups.js';
import type { Actor } from '../../core/database/entities/event.js';
import { AppError } from '../../core/errors.js';
import { findOrCreateExternal } from '../accounts/accounts.js';
import type { Principal } from './principal.js';
import { notValid } from './tokens.js';

/*
 * Access tokens of an identity provider (RFC 7519, RFC 8725). The algorithm in the header tells them from our
 * tokens, and the header decides nothing else: our tokens are verified with our secret and HS256 only, the
 * provider's tokens with its public keys and RS256 or ES256 only. So neither kind can pass for the other.
 */

/** Verifies access tokens of an identity provider. The actor describes the request that brought the token. */
export type VerifyExternal = (token: string, actor: Actor) => Promise<Principal>;

/** How long to wait for the keys of the provider, in milliseconds. */
const KEYS_TIMEOUT_MS = 5_000;

/** The accepted difference between the clocks of this machine and of the provider. */
const CLOCK_TOLERANCE_SECONDS = 30;

/** The last time that a Date can hold, in milliseconds (ECMAScript, 21.4.1.1). */
const LATEST = 8.64e15;

/** When fetched keys are fetched again, in milliseconds. */
interface KeysAge {
  /** Younger keys are not fetched again, so tokens with unknown keys cannot make us ask. */
  freshMs: number;
  /** Older keys may have been revoked. */
  trustedMs: number;
}

const KEYS_AGE: KeysAge = { freshMs: 30_000, trustedMs: 600_000 };

/** Text that PostgreSQL stores unchanged: no control characters, no lone surrogates. */
const printable = z.string().regex(/^\P{C}*$/u);

const claims = z.object({
  sub: printable.min(1).max(255),
  iss: printable.max(1000).optional(),
  exp: z.number(),
  // For display only: an invalid address must not keep a user out.
  email: z.email().max(254).optional().catch(undefined),
});

/** Whether the header of a token names a private key's algorithm, unlike our tokens. Verifies nothing. */
export function isExternal(token: string): boolean {
  try {
    return /^(RS|PS|ES|Ed)/.test(decodeProtectedHeader(token).alg ?? '');
  } catch {
    return false;
  }
}

/**
 * Creates the function that verifies tokens of the provider and finds their accounts; a new user gets an
 * account. It ignores roles in a token, which are meant for other applications.
 * @throws {AppError} unauthenticated; unavailable when the keys cannot be fetched (from the function that it
 * returns)
 */
export function createVerifyExternal(
  provider: IdentityProvider,
  database: DataSource,
  age: KeysAge = KEYS_AGE,
): VerifyExternal {
  const { keys, issuer, audience } = provider;
  const getKey: JWTVerifyGetKey =
    'jwksUrl' in keys ? fetchKeys(keys.jwksUrl, age) : async () => keys.publicKey;
  const options = {
    algorithms: 'jwksUrl' in keys ? ['RS256', 'ES256'] : [algorithmOf(keys.publicKey)],
    requiredClaims: ['sub', 'exp'],
    clockTolerance: CLOCK_TOLERANCE_SECONDS,
    ...(issuer ? { issuer } : {}),
    ...(audience ? { audience } : {}),
  };

  return async (token, actor) => {
    const { payload } = await jwtVerify(token, getKey, options).catch((error: unknown) => {
      throw translate(error, options.algorithms);
    });
    const parsed = claims.safeParse(payload);
    if (!parsed.success) throw notValid(parsed.error, false);
    const { sub, iss, email, exp } = parsed.data;
    // JSON keeps the pair unambiguous, whatever characters it contains.
    const externalId = JSON.stringify([iss ?? null, sub]);
    const user = await findOrCreateExternal(database, externalId, email ?? sub, actor);
    if (user.disabledAt) throw new AppError('unauthenticated', { detail: 'This account is disabled' });
    return { userId: user.id, role: user.role, expiresAt: new Date(Math.min(exp * 1000, LATEST)) };
  };
}

/** Only a key that the provider does not have is the fault of the token; other errors here are not. */
function fetchKeys(url: string, { freshMs, trustedMs }: KeysAge): JWTVerifyGetKey {
  const getKey = createRemoteJWKSet(new URL(url), {
    timeoutDuration: KEYS_TIMEOUT_MS,
    cooldownDuration: freshMs,
    cacheMaxAge: trustedMs,
  });
  return async (header, token) => {
    try {
      return await getKey(header, token);
    } catch (error) {
      const isOfToken =
        error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys;
      if (isOfToken) throw error;
      throw new AppError('unavailable', {
        detail: 'The keys of the identity provider cannot be fetched at the moment',
        cause: error,
        retryable: true,
      });
    }
  };
}

function algorithmOf({ asymmetricKeyType }: { asymmetricKeyType?: string | undefined }): string {
  return asymmetricKeyType === 'rsa' ? 'RS256' : 'ES256';
}

function translate(error: unknown, algorithms: string[]): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof errors.JOSEAlgNotAllowed) {
    const detail = `Tokens of the identity provider must be signed with ${algorithms.join(' or ')}`;
    return new AppError('unauthenticated', { detail, cause: error });
  }
  return notValid(error, error instanceof errors.JWTExpired);
}
