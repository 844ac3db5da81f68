import { hash, verify } from '@node-rs/argon2';
import { createLimiter } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';

/** OWASP's parameters for argon2id (the library's default algorithm): 19 MiB, 2 passes, 1 lane. */
const ARGON2 = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };

/** A hash of random bytes: refusing an unknown address takes as long as refusing a wrong password. */
export const NO_USER_HASH =
  '$argon2id$v=19$m=19456,t=2,p=1$fJ+DSFy33frElU9d6HeDvQ$GkcK+UqnL+Id7k8DTc5fjb4pN5Llzco8UCtYqdGe5vY';

/** Hashing shares four threads with disk writes: a flood of sign-ins must leave some of them to uploads. */
const AT_ONCE = 2;

/** The longest queue of hashes: some seconds of work. */
const MAX_WAITING = 100;

/** Shared by the whole process, because libuv's threads are. */
const takeTurn = createLimiter(AT_ONCE);

/** How many hashes run or wait. */
let open = 0;

/** @throws {AppError} unavailable when too many hashes wait */
export function hashPassword(password: string): Promise<string> {
  return inTurn(() => hash(password, ARGON2));
}

/**
 * Whether a password matches a hash; takes the same time without a hash.
 * @throws {AppError} unavailable when too many hashes wait
 */
export async function isPassword(
  password: string,
  passwordHash: string | null | undefined,
): Promise<boolean> {
  const fits = await inTurn(() => verify(passwordHash ?? NO_USER_HASH, password));
  return fits && !!passwordHash;
}

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (open >= AT_ONCE + MAX_WAITING) {
    throw new AppError('unavailable', { detail: 'Too many sign-ins at once: try again', retryable: true });
  }
  open++;
  try {
    return await takeTurn(work);
  } finally {
    open--;
  }
}
