import { hash } from '@node-rs/argon2';
import { hashPassword, isPassword, NO_USER_HASH } from '../server/accounts/passwords.js';
import { PASSWORD, registerUser, type TestUser } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { logIn, newAddress, postAuth } from './support/sign-in.js';

/*
 * So few passwords are hashed at a time that uploads keep their threads, and an unknown address costs as much
 * as a wrong password.
 */

let processes: Processes;
let user: TestUser;

beforeAll(async () => {
  processes = await startProcesses({}, ['server']);
  user = await registerUser(() => processes.url);
});

afterAll(() => processes?.close());

/** The algorithm and costs of a hash, without salt and result. */
const costs = (passwordHash: string) => passwordHash.split('$').slice(0, 4).join('$');

describe('a password', () => {
  test('fits its own hash only', async () => {
    const passwordHash = await hashPassword(PASSWORD);
    expect(await isPassword(PASSWORD, passwordHash)).toBe(true);
    expect(await isPassword(`${PASSWORD} `, passwordHash)).toBe(false);
    expect(await hashPassword(PASSWORD)).not.toBe(passwordHash);
  });

  test.each([undefined, null])(
    'never fits a missing hash (%s), and takes its turn all the same',
    async (none) => {
      expect(await isPassword('', none)).toBe(false);
      // There are more than may wait. Some are refused, which shows that each one takes a turn.
      const results = await Promise.allSettled(Array.from({ length: 120 }, () => isPassword(PASSWORD, none)));
      const away = results.filter((result) => result.status === 'rejected');
      expect(away).toHaveLength(18);
      for (const { reason } of away) expect(reason).toMatchObject({ code: 'unavailable', retryable: true });
    },
  );

  test('is compared with a hash of the same cost, whether there is an account or not', async () => {
    const { rows } = await processes.database.query('SELECT password_hash FROM users WHERE id = $1', [
      user.id,
    ]);
    expect(costs(rows[0].password_hash)).toBe('$argon2id$v=19$m=19456,t=2,p=1');
    expect(costs(NO_USER_HASH)).toBe(costs(rows[0].password_hash));
    expect(NO_USER_HASH).toHaveLength((await hash('x', { memoryCost: 19_456, timeCost: 2 })).length);
  });
});

describe.each([
  ['an account that exists', () => user.email],
  ['addresses without an account', newAddress],
])('three hundred sign-ins at once to %s', (_name, address) => {
  test('are answered 401, or 503 with Retry-After, while uploads go on', async () => {
    const flood = Promise.all(
      Array.from({ length: 300 }, () =>
        postAuth(processes.url, 'login', { email: address(), password: 'not the password' }),
      ),
    );
    const content = Buffer.alloc(256 * 1024, 'u');
    const uploads = Promise.all(Array.from({ length: 10 }, () => user.upload(content)));
    const answers = await flood;
    expect(new Set(await uploads).size).toBe(10);
    const refused = answers.filter(({ status }) => status === 401);
    const away = answers.filter(({ status }) => status === 503);
    expect(refused.length + away.length).toBe(300);
    // Each sign-in takes a turn. Those beyond the number that may wait get 503.
    expect(away.length).toBeGreaterThan(0);
    expect(refused.length).toBeGreaterThanOrEqual(100);
    for (const answer of away) expect(answer.headers.get('Retry-After')).toMatch(/^[1-9]\d*$/);
    expect((await logIn(processes.url, user.email)).user.id).toBe(user.id);
  });
});
