import type { KeyObject } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import type { Principal } from './principal.js';

const claims = z.object({
  sub: z.uuid(),
  role: z.enum(['user', 'admin']),
  sid: z.uuid().optional(),
  exp: z.int(),
});

/** Makes a JWT (RFC 7519, HS256) that names the user, the role and the session. */
export function signToken(
  { userId, role, sessionId }: Pick<Principal, 'userId' | 'role' | 'sessionId'>,
  key: KeyObject,
  minutes: number,
): string {
  return jwt.sign({ role, ...(sessionId ? { sid: sessionId } : {}) }, key, {
    algorithm: 'HS256',
    subject: userId,
    expiresIn: minutes * 60,
  });
}

/** @throws {AppError} unauthenticated when the token is not ours, was changed or has expired */
export function verifyToken(token: string, key: KeyObject): Principal & { expiresAt: Date } {
  try {
    const { sub, role, sid, exp } = claims.parse(jwt.verify(token, key, { algorithms: ['HS256'] }));
    const expiresAt = new Date(exp * 1000);
    return { userId: sub, role, expiresAt, ...(sid ? { sessionId: sid } : {}) };
  } catch (error) {
    throw notValid(error, error instanceof jwt.TokenExpiredError);
  }
}

/** How many verified tokens are remembered. */
const MOST_KNOWN = 1_000;

/**
 * Like verifyToken(), and remembers valid tokens: a client sends the same one with hundreds of requests, and verifying it
 * was a twentieth of the CPU of a HEAD.
 */
export function createVerifyToken(key: KeyObject): (token: string) => Principal {
  const known = new Map<string, Principal & { expiresAt: Date }>();
  return (token) => {
    const before = known.get(token);
    if (before && Date.now() < before.expiresAt.getTime()) return { ...before };
    known.delete(token);
    const principal = verifyToken(token, key);
    // The first one is the oldest.
    if (known.size >= MOST_KNOWN) known.delete(known.keys().next().value ?? '');
    known.set(token, principal);
    return { ...principal };
  };
}

/** The error for every invalid access token. */
export function notValid(cause: unknown, expired: boolean): AppError {
  if (expired) return new TokenExpired(cause);
  return new AppError('unauthenticated', { detail: 'The access token is not valid', cause });
}

/** Whether a request was refused because its token neither is nor was valid. */
export function isWrongToken(error: unknown): boolean {
  return error instanceof AppError && error.code === 'unauthenticated' && !(error instanceof TokenExpired);
}

/** The token was valid once, so its use is no attack. */
export class TokenExpired extends AppError {
  constructor(cause: unknown) {
    super('unauthenticated', { detail: 'The access token has expired', cause });
  }
}
