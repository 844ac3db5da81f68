import { createSecretKey, randomBytes } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { createVerifyToken, signToken, TokenExpired } from '../server/auth/tokens.js';
import { until } from './support/until.js';

/* Verified tokens are remembered. That changes no answer. */

const key = createSecretKey(randomBytes(32));
const verify = createVerifyToken(key);
const make = (role: 'user' | 'admin' = 'user', minutes = 1) =>
  signToken({ userId: uuidv7(), role }, key, minutes);

/** The code of the refusal. */
function refusalOf(token: string): unknown {
  try {
    verify(token);
  } catch (error) {
    return error instanceof TokenExpired ? 'expired' : (error as { code?: string }).code;
  }
  return 'none';
}

test('a known token is still the same, and a changed one is not it', () => {
  const token = make('admin');
  const first = verify(token);
  expect(verify(token)).toEqual(first);
  // Whoever changes what he got changes nothing for the next request.
  Object.assign(verify(token), { role: 'user' });
  expect(verify(token).role).toBe('admin');
  expect(refusalOf(`${token}x`)).toBe('unauthenticated');
  expect(refusalOf(token.slice(0, -1))).toBe('unauthenticated');
});

test('a known token expires on time', async () => {
  const token = make('user', 3 / 60);
  const { expiresAt } = verify(token);
  await until('the token to expire', () => refusalOf(token) === 'expired');
  expect(Date.now()).toBeGreaterThanOrEqual(expiresAt?.getTime() ?? Number.POSITIVE_INFINITY);
  expect(refusalOf(token)).toBe('expired');
});

test('more tokens than are remembered are verified all the same', () => {
  const tokens = Array.from({ length: 1_200 }, () => make());
  for (const token of [...tokens, ...tokens]) expect(refusalOf(token)).toBe('none');
});
