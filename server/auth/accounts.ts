import { createHash, randomBytes } from 'node:crypto';
import { hash, verify } from '@node-rs/argon2';
import type { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Session } from '../../core/database/entities/session.js';
import { User } from '../../core/database/entities/user.js';
import { AppError, hasCode } from '../../core/errors.js';

/** Key of the advisory lock ("frst" in ASCII) under which the first account becomes the admin's. */
const FIRST_ACCOUNT_LOCK = 0x66727374;

export const SESSION_DAYS = 30;

/** OWASP's parameters for argon2id (the library's default algorithm): 19 MiB, 2 passes, 1 lane. */
const ARGON2 = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };

/** Of random bytes that nobody kept: an unknown address takes as long to refuse as a wrong password. */
const NO_USER_HASH =
  '$argon2id$v=19$m=19456,t=2,p=1$fJ+DSFy33frElU9d6HeDvQ$GkcK+UqnL+Id7k8DTc5fjb4pN5Llzco8UCtYqdGe5vY';

/**
 * Creates an account. The first one is an admin's, also when many register at once.
 * @throws {AppError} email_taken
 */
export async function register(database: DataSource, email: string, password: string): Promise<User> {
  const passwordHash = await hash(password, ARGON2);
  try {
    return await database.transaction(async (manager) => {
      await manager.query('SELECT pg_advisory_xact_lock($1)', [FIRST_ACCOUNT_LOCK]);
      const first = !(await manager.getRepository(User).existsBy({}));
      const user = manager.create(User, {
        id: uuidv7(),
        email: email.toLowerCase(),
        passwordHash,
        role: first ? 'admin' : 'user',
      });
      await manager.insert(User, user);
      return user;
    });
  } catch (error) {
    if (hasCode(error, '23505')) throw new AppError('email_taken', { cause: error });
    throw error;
  }
}

/** @throws {AppError} wrong_credentials, the same for an unknown address and a wrong password */
export async function logIn(database: DataSource, email: string, password: string): Promise<User> {
  const user = await database.getRepository(User).findOneBy({ email: email.toLowerCase() });
  const fits = await verify(user?.passwordHash ?? NO_USER_HASH, password);
  if (!user || !fits) throw new AppError('wrong_credentials');
  return user;
}

/** @throws {AppError} unauthenticated when the account is gone */
export async function getUser(database: DataSource, id: string): Promise<User> {
  const user = await database.getRepository(User).findOneBy({ id });
  if (!user) throw new AppError('unauthenticated', { detail: 'This account does not exist any more' });
  return user;
}

/** Opens a session. Returns its refresh token, which is kept nowhere else. */
export async function openSession(database: DataSource, userId: string): Promise<string> {
  const token = randomBytes(32).toString('base64url');
  await database.query('DELETE FROM sessions WHERE expires_at < now()');
  await database.getRepository(Session).insert({
    id: uuidv7(),
    userId,
    tokenHash: hashToken(token),
    expiresAt: new Date(Date.now() + SESSION_DAYS * 86_400_000),
  });
  return token;
}

/** The user whose session a refresh token opens. @throws {AppError} unauthenticated */
export async function resumeSession(database: DataSource, token: string): Promise<User> {
  const user = await database
    .getRepository(User)
    .createQueryBuilder('u')
    .innerJoin(Session, 's', 's.userId = u.id')
    .where('s.tokenHash = :hash AND s.expiresAt > now()', { hash: hashToken(token) })
    .getOne();
  if (!user) throw new AppError('unauthenticated', { detail: 'The session has ended: sign in again' });
  return user;
}

/** Ends a session; no error if there is none. */
export async function closeSession(database: DataSource, token: string): Promise<void> {
  await database.getRepository(Session).delete({ tokenHash: hashToken(token) });
}

function hashToken(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
