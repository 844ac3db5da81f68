import { randomUUID } from 'node:crypto';
import { exportSPKI, generateKeyPair } from 'jose';
import { openDatabase } from '../core/database/data-source.js';
import { createVerifyExternal } from '../server/auth/external.js';
import { PASSWORD, registerUser, type TestUser, useAccount } from './support/client.js';
import {
  AUDIENCE,
  type Claims,
  type IdentityProvider,
  signWith,
  startIdentityProvider,
} from './support/identity-provider.js';
import { type Processes, startProcesses } from './support/processes.js';
import { logIn, newAddress, postAuth, problemOf, send } from './support/sign-in.js';

/*
 * Access tokens of an identity provider: their accounts, the tokens that are accepted, and keys that change
 * or cannot be fetched.
 */

const REFUSED = [401, 'unauthenticated'];

let provider: IdentityProvider;
let processes: Processes;
let admin: TestUser;

beforeAll(async () => {
  provider = await startIdentityProvider();
  processes = await startProcesses(
    { JWT_JWKS_URL: provider.jwksUrl, JWT_ISSUER: provider.issuer, JWT_AUDIENCE: AUDIENCE },
    ['server'],
  );
  admin = await registerUser(() => processes.url);
});

afterAll(async () => {
  await processes?.close();
  await provider?.close();
});

const get = (token: string, path = '/api/me', at = processes) =>
  fetch(`${at.url}${path}`, { headers: { Authorization: `Bearer ${token}` } });

/** The claims of a person who is new here and known to the provider. */
const somebody = (claims: Claims = {}) => ({ sub: randomUUID(), email: newAddress(), ...claims });

async function accountOf(token: string) {
  const answer = await get(token);
  expect(answer.status).toBe(200);
  return answer.json();
}

describe('a token that the provider has signed', () => {
  test.each(['rsa', 'ec'])('with its key %s speaks for the same account each time', async (kid) => {
    const who = somebody();
    const first = await accountOf(await provider.sign(kid, who));
    expect(first).toMatchObject({ email: who.email, role: 'user' });
    const again = await accountOf(await provider.sign(kid === 'rsa' ? 'ec' : 'rsa', { sub: who.sub }));
    expect(again).toEqual(first);
    const other = await accountOf(await provider.sign(kid, somebody()));
    expect(other.id).not.toBe(first.id);
  });

  test('makes one account, also when its first twenty requests come at once', async () => {
    const token = await provider.sign('ec', somebody());
    const accounts = await Promise.all(Array.from({ length: 20 }, () => accountOf(token)));
    expect(new Set(accounts.map(({ id }) => id)).size).toBe(1);
    const { rows } = await processes.database.query(
      `SELECT type FROM all_events WHERE subject_id = $1 AND type = 'auth.register'`,
      [accounts[0].id],
    );
    expect(rows).toHaveLength(1);
  });

  test('uploads by tus', async () => {
    const token = await provider.sign('ec', somebody());
    const { id, ...account } = await accountOf(token);
    const user = useAccount({ id, ...account }, token, () => processes.url);
    const file = await user.tusUpload(Buffer.alloc(100_000, 'x'), { chunkSize: 40_000 });
    expect((await user.get(`/api/files/${file}`)).size).toBe(100_000);
    expect((await admin.fetch(`/api/files/${file}`)).status).toBe(404);
  });

  test('cannot give a role, whatever its claims', async () => {
    const who = somebody({ role: 'admin', roles: ['admin'], scope: 'admin' });
    const token = await provider.sign('rsa', who);
    const { id } = await accountOf(token);
    expect(await problemOf(await get(token, '/api/admin/users'))).toEqual([403, 'forbidden']);
    // An admin here sets the role, which holds at once.
    const give = await send(admin, 'PATCH', `/api/admin/users/${id}`, { role: 'admin' });
    expect(await give.json()).toMatchObject({ role: 'admin', external: true });
    expect((await get(token, '/api/admin/users')).status).toBe(200);
    await send(admin, 'PATCH', `/api/admin/users/${id}`, { role: 'user' });
    expect(await problemOf(await get(token, '/api/admin/users'))).toEqual([403, 'forbidden']);
  });

  test('is refused at once when its account is disabled', async () => {
    const token = await provider.sign('ec', somebody());
    const { id } = await accountOf(token);
    await send(admin, 'PATCH', `/api/admin/users/${id}`, { disabled: true });
    expect(await problemOf(await get(token))).toEqual(REFUSED);
    expect(await problemOf(await get(token, '/api/files'))).toEqual(REFUSED);
    await send(admin, 'PATCH', `/api/admin/users/${id}`, { disabled: false });
    expect((await get(token)).status).toBe(200);
  });

  test('needs no e-mail address, and an odd one does not matter', async () => {
    for (const email of [undefined, null, '', 'root@localhost', 7, { a: 1 }]) {
      const { sub } = somebody();
      expect((await accountOf(await provider.sign('ec', { sub, email }))).email).toBe(sub);
    }
  });
});

describe('an address that both know', () => {
  test('does not join the account of a token with the account of a password', async () => {
    const email = newAddress();
    const token = await provider.sign('rsa', somebody({ email }));
    const external = await accountOf(token);
    // A person with a password can register the address, and signs in to an account of their own.
    const made = await postAuth(processes.url, 'register', { email, password: PASSWORD });
    expect(made.status).toBe(201);
    const local = await logIn(processes.url, email);
    expect(local.user.id).toBe((await made.json()).user.id);
    expect(local.user.id).not.toBe(external.id);

    const stranger = await accountOf(await provider.sign('rsa', somebody({ email })));
    expect([external.id, local.user.id]).not.toContain(stranger.id);
    expect((await logIn(processes.url, email)).user.id).toBe(local.user.id);
    expect((await accountOf(token)).id).toBe(external.id);
  });
});

test('clocks that are some seconds apart do not matter', async () => {
  const now = Math.floor(Date.now() / 1000);
  expect((await get(await provider.sign('rsa', somebody({ exp: now - 10 })))).status).toBe(200);
  expect((await get(await provider.sign('ec', somebody({ nbf: now + 10 })))).status).toBe(200);
});

describe('a token is refused', () => {
  const seconds = () => Math.floor(Date.now() / 1000);
  const unsigned = (claims: Claims) =>
    `${[{ alg: 'none' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')}.`;
  const cases: [string, (claims: Claims) => Promise<string> | string][] = [
    ['of another issuer', (c) => provider.sign('rsa', { ...c, iss: 'https://evil.example' })],
    ['without an issuer', (c) => provider.sign('rsa', { ...c, iss: undefined })],
    ['for another audience', (c) => provider.sign('ec', { ...c, aud: 'another' })],
    ['without an audience', (c) => provider.sign('ec', { ...c, aud: undefined })],
    ['that has expired a minute ago', (c) => provider.sign('rsa', { ...c, exp: seconds() - 60 })],
    ['that never expires', (c) => provider.sign('rsa', { ...c, exp: undefined })],
    ['that is not good yet', (c) => provider.sign('rsa', { ...c, nbf: seconds() + 600 })],
    ['without a subject', (c) => provider.sign('rsa', { ...c, sub: undefined })],
    ['with an empty subject', (c) => provider.sign('rsa', { ...c, sub: '' })],
    ['with NUL in its subject', (c) => provider.sign('rsa', { ...c, sub: 'a\0b' })],
    ['with half a character in its subject', (c) => provider.sign('rsa', { ...c, sub: 'a\ud800' })],
    ['with a subject beyond all measure', (c) => provider.sign('rsa', { ...c, sub: 'x'.repeat(256) })],
    ['without a signature', (c) => unsigned({ iss: provider.issuer, aud: AUDIENCE, exp: 1e10, ...c })],
    ['whose signature is cut off', async (c) => (await provider.sign('ec', c)).slice(0, -3)],
    [
      'whose claims were changed',
      async (c) => {
        const [header, payload = '', signature] = (await provider.sign('rsa', c)).split('.');
        const claims = { ...JSON.parse(Buffer.from(payload, 'base64url').toString()), sub: 'another' };
        return [header, Buffer.from(JSON.stringify(claims)).toString('base64url'), signature].join('.');
      },
    ],
    [
      'by the right algorithm and a key of somebody else',
      async (c) => {
        const { privateKey } = await generateKeyPair('RS256');
        return signWith(privateKey, 'RS256', { iss: provider.issuer, aud: AUDIENCE, ...c }, 'rsa');
      },
    ],
  ];

  test.each(cases)('%s', async (_name, make) => {
    const who = somebody();
    const before = await processes.database.query('SELECT count(*) FROM users');
    const answer = await get(await make(who));
    expect(await problemOf(answer)).toEqual(REFUSED);
    expect(answer.headers.get('WWW-Authenticate')).toBe('Bearer');
    expect((await processes.database.query('SELECT count(*) FROM users')).rows).toEqual(before.rows);
  });

  test.each(['RS512', 'PS256', 'ES384'])('by %s, and is told which are accepted', async (algorithm) => {
    const { privateKey } = await generateKeyPair(algorithm);
    const claims = { iss: provider.issuer, aud: AUDIENCE, ...somebody() };
    const answer = await get(await signWith(privateKey, algorithm, claims, 'rsa'));
    expect(answer.status).toBe(401);
    expect((await answer.json()).detail).toMatch(/RS256.*ES256/);
  });

  test('without any effect on accounts that sign in here', async () => {
    expect((await admin.fetch('/api/me')).status).toBe(200);
    expect((await logIn(processes.url, admin.email)).user.id).toBe(admin.id);
  });
});

describe('the keys of the provider', () => {
  /** Starts a server that has not fetched the keys yet. */
  async function withFreshServer(work: (fresh: Processes, theirs: IdentityProvider) => Promise<void>) {
    const theirs = await startIdentityProvider();
    const fresh = await startProcesses({ JWT_JWKS_URL: theirs.jwksUrl }, ['server']);
    try {
      await work(fresh, theirs);
    } finally {
      await fresh.close();
      await theirs.close();
    }
  }

  test('are fetched once for many tokens; the first account is the admin’s, also by a token', () =>
    withFreshServer(async (fresh, theirs) => {
      const tokens = await Promise.all(Array.from({ length: 20 }, () => theirs.sign('rsa', somebody())));
      const answers = await Promise.all(tokens.map((token) => get(token, '/api/me', fresh)));
      const roles = await Promise.all(answers.map(async (answer) => (await answer.json()).role));
      expect(roles.filter((role) => role === 'admin')).toHaveLength(1);
      expect(roles.filter((role) => role === 'user')).toHaveLength(19);
      expect(theirs.asked).toBe(1);
    }));

  test('are not fetched again and again for tokens that name unknown keys', async () => {
    expect((await get(await provider.sign('rsa', somebody()))).status).toBe(200);
    const asked = provider.asked;
    const { privateKey } = await generateKeyPair('ES256');
    const forged = await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        signWith(privateKey, 'ES256', { iss: provider.issuer, aud: AUDIENCE, ...somebody() }, `kid-${n}`),
      ),
    );
    for (const answer of await Promise.all(forged.map((token) => get(token)))) {
      expect(await problemOf(answer)).toEqual(REFUSED);
    }
    expect(provider.asked - asked).toBeLessThanOrEqual(1);
  });

  test('that cannot be fetched make its tokens answer 503, while local accounts still sign in', () =>
    withFreshServer(async (fresh, theirs) => {
      const local = await registerUser(() => fresh.url);
      const who = somebody();
      const token = await theirs.sign('ec', who);
      for (const answer of ['nothing', 'error', 'nonsense'] as const) {
        theirs.answerWith(answer);
        const refused = await get(token, '/api/me', fresh);
        expect(await problemOf(refused)).toEqual([503, 'unavailable']);
        expect(refused.headers.get('Retry-After')).toMatch(/^[1-9]\d*$/);
      }
      expect((await local.fetch('/api/me')).status).toBe(200);
      expect((await logIn(fresh.url, local.email)).user.id).toBe(local.id);

      // HEAD gets 423, because after a 503 a client would give the upload up.
      const uploader = useAccount({ id: '', email: '', role: 'user' }, token, () => fresh.url);
      const path = await local.create(3);
      expect((await uploader.tus('HEAD', path)).status).toBe(423);
      const patch = await uploader.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc');
      expect([patch.status, patch.headers.get('Retry-After')]).toEqual([503, expect.any(String)]);

      theirs.answerWith('keys');
      expect((await get(token, '/api/me', fresh)).status).toBe(200);
    }));
});

describe('one public key instead of an address', () => {
  test('verifies tokens, and refuses another key or algorithm, also HS256 with the public key', async () => {
    const [rsa, ec] = await Promise.all([
      generateKeyPair('RS256', { extractable: true }),
      generateKeyPair('ES256', { extractable: true }),
    ]);
    const pem = await exportSPKI(rsa.publicKey);
    const fresh = await startProcesses({ JWT_PUBLIC_KEY: pem.trim().replaceAll('\n', '\\n') }, ['server']);
    try {
      const who = { ...somebody(), iss: 'https://issuer.example' };
      const token = await signWith(rsa.privateKey, 'RS256', who);
      const first = await get(token, '/api/me', fresh);
      expect([first.status, (await first.json()).email]).toEqual([200, who.email]);

      // The public key is not secret, so a server that took it for an HMAC key would accept any forgery.
      for (const secret of [pem, pem.trim(), `${pem.trim()}\n\n`, pem.trim().replaceAll('\n', '\\n')]) {
        const forged = await signWith(Buffer.from(secret), 'HS256', { ...who, role: 'admin' });
        expect(await problemOf(await get(forged, '/api/me', fresh))).toEqual(REFUSED);
      }
      const byEc = await signWith(ec.privateKey, 'ES256', who);
      expect(await problemOf(await get(byEc, '/api/me', fresh))).toEqual(REFUSED);

      // The same subject of another issuer is another account, however the names are joined.
      const ids = new Set<string>();
      for (const [iss, sub] of [
        ['https://issuer.example', 'a|b'],
        ['https://issuer.example|a', 'b'],
        [undefined, 'https://issuer.example|a|b'],
        ['', 'https://issuer.example|a|b'],
      ]) {
        const other = await get(await signWith(rsa.privateKey, 'RS256', { iss, sub }), '/api/me', fresh);
        ids.add((await other.json()).id);
      }
      expect(ids.size).toBe(4);
    } finally {
      await fresh.close();
    }
  });
});

test('a key that the provider adds is fetched, and one that it takes away is not trusted for long', async () => {
  const theirs = await startIdentityProvider();
  const database = await openDatabase(processes.database.url, 'test');
  try {
    const provider = { keys: { jwksUrl: theirs.jwksUrl }, issuer: theirs.issuer, audience: AUDIENCE };
    // With these times every call counts as long after the call before.
    const verify = createVerifyExternal(provider, database, { freshMs: 0, trustedMs: 0 });
    const old = await theirs.sign('rsa', somebody());
    const { userId } = await verify(old, {});
    expect((await verify(old, {})).userId).toBe(userId);
    await theirs.addKey('later', 'ES256');
    expect((await verify(await theirs.sign('later', somebody()), {})).role).toBe('user');
    theirs.removeKey('rsa');
    await expect(verify(old, {})).rejects.toMatchObject({ code: 'unauthenticated' });

    // Keys that are still trusted are not fetched again, but a new key is fetched once.
    const patient = createVerifyExternal(provider, database, { freshMs: 0, trustedMs: 600_000 });
    const token = await theirs.sign('ec', somebody());
    const before = theirs.asked;
    for (let n = 0; n < 5; n++) await patient(token, {});
    expect(theirs.asked - before).toBe(1);
    await theirs.addKey('latest', 'RS256');
    await patient(await theirs.sign('latest', somebody()), {});
    expect(theirs.asked - before).toBe(2);
  } finally {
    await database.destroy();
    await theirs.close();
  }
});
