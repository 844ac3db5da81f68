import { hash, verify } from '@node-rs/argon2';
import { AppError } from '../../core/errors.js';

/** OWASP's parameters for argon2id (the library's default algorithm): 19 MiB, 2 passes, 1 lane. */
const ARGON2 = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };

/** Of random bytes that nobody kept: an unknown address takes as long to refuse as a wrong password. */
export const NO_USER_HASH =
  '$argon2id$v=19$m=19456,t=2,p=1$fJ+DSFy33frElU9d6HeDvQ$GkcK+UqnL+Id7k8DTc5fjb4pN5Llzco8UCtYqdGe5vY';

/** Hashing runs on the threads that also write to disk: a flood of sign-ins must leave some of the four to uploads. */
const AT_ONCE = 2;

/** Some seconds of work. */
const MAX_WAITING = 100;

/** Of the module, not of a server: libuv's threads are the process's, and so is the queue before them. */
const waiting: (() => void)[] = [];
let running = 0;

/** @throws {AppError} unavailable when too many others wait */
export function hashPassword(password: string): Promise<string> {
  return inTurn(() => hash(password, ARGON2));
}

/**
 * Whether a password fits a hash; takes the same time without one.
 * @throws {AppError} unavailable when too many others wait
 */
export async function isPassword(
  password: string,
  passwordHash: string | null | undefined,
): Promise<boolean> {
  const fits = await inTurn(() => verify(passwordHash ?? NO_USER_HASH, password));
  return fits && !!passwordHash;
}

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (running >= AT_ONCE) {
    if (waiting.length >= MAX_WAITING) {
      throw new AppError('unavailable', { detail: 'Too many sign-ins at once: try again', retryable: true });
    }
    // Whoever ends hands its turn over.
    await new Promise<void>((resolve) => waiting.push(resolve));
  } else {
    running++;
  }
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
  }
}
