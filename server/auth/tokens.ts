import type { KeyObject } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import type { Principal } from './principal.js';

const claims = z.object({ sub: z.uuid(), role: z.enum(['user', 'admin']), sid: z.uuid().optional() });

/** Makes a JWT (RFC 7519, HS256) that tells who its bearer is. */
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

/** @throws {AppError} unauthenticated when the token is not one of ours, was changed or has expired */
export function verifyToken(token: string, key: KeyObject): Principal {
  try {
    const { sub, role, sid } = claims.parse(jwt.verify(token, key, { algorithms: ['HS256'] }));
    return { userId: sub, role, ...(sid ? { sessionId: sid } : {}) };
  } catch (error) {
    throw notValid(error, error instanceof jwt.TokenExpiredError);
  }
}

/** What every wrong access token is answered with. */
export function notValid(cause: unknown, expired: boolean): AppError {
  if (expired) return new TokenExpired(cause);
  return new AppError('unauthenticated', { detail: 'The access token is not valid', cause });
}

/** Whether somebody was refused for want of a token that is, or was, good. */
export function isWrongToken(error: unknown): boolean {
  return error instanceof AppError && error.code === 'unauthenticated' && !(error instanceof TokenExpired);
}

/** It was good once, and nobody has done anything wrong. */
export class TokenExpired extends AppError {
  constructor(cause: unknown) {
    super('unauthenticated', { detail: 'The access token has expired', cause });
  }
}
