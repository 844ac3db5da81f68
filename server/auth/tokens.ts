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
export function verifyToken(token: string, key: KeyObject): Principal {
  try {
    const { sub, role, sid, exp } = claims.parse(jwt.verify(token, key, { algorithms: ['HS256'] }));
    const expiresAt = new Date(exp * 1000);
    return { userId: sub, role, expiresAt, ...(sid ? { sessionId: sid } : {}) };
  } catch (error) {
    throw notValid(error, error instanceof jwt.TokenExpiredError);
  }
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
