import type { KeyObject } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import type { Role } from '../../core/database/entities/user.js';
import { AppError } from '../../core/errors.js';

/** Who makes a request. */
export interface Principal {
  userId: string;
  role: Role;
}

const claims = z.object({ sub: z.uuid(), role: z.enum(['user', 'admin']) });

/** Makes a JWT (RFC 7519, HS256) that tells who its bearer is. */
export function signToken(principal: Principal, key: KeyObject, minutes: number): string {
  return jwt.sign({ role: principal.role }, key, {
    algorithm: 'HS256',
    subject: principal.userId,
    expiresIn: minutes * 60,
  });
}

/** @throws {AppError} unauthenticated when the token is not one of ours, was changed or has expired */
export function verifyToken(token: string, key: KeyObject): Principal {
  try {
    const { sub, role } = claims.parse(jwt.verify(token, key, { algorithms: ['HS256'] }));
    return { userId: sub, role };
  } catch (error) {
    const expired = error instanceof jwt.TokenExpiredError;
    throw new AppError('unauthenticated', {
      detail: expired ? 'The access token has expired' : 'The access token is not valid',
      cause: error,
    });
  }
}
