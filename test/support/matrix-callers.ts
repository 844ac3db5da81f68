import { generateKeyPairSync, randomBytes } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { deriveKeys } from '../../server/auth/keys.js';
import { signToken } from '../../server/auth/tokens.js';
import { registerUser, type TestUser } from './client.js';
import type { Processes } from './processes.js';
import { newSession, registerAdmin, send } from './sign-in.js';

/*
 * All kinds of callers of a route: see matrix.test.ts.
 */

const SECRET = 'a secret of the matrix, long enough for a key';
const keys = deriveKeys(SECRET);
export const linkKey = keys.link;
export const answerKey = keys.stepAnswer;

const provider = generateKeyPairSync('rsa', {
  modulusLength: 2048,
  publicKeyEncoding: { type: 'spki', format: 'pem' },
  privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
});

/** An identity provider is configured, so that its tokens, and forgeries with its public key, mean something. */
export const MATRIX_ENV = {
  JWT_SECRET: SECRET,
  JWT_PUBLIC_KEY: provider.publicKey,
  RATE_LIMIT_UPLOADS: '0',
  RATE_LIMIT_STATUS: '0',
  RATE_LIMIT_DOWNLOADS: '0',
  RATE_LIMIT_PROCESSING: '0',
  RATE_LIMIT_GLOBAL: '0',
};

export type Action = 'upload' | 'read' | 'manage' | 'account' | 'admin';
const SCOPES = ['upload', 'read', 'manage'] as const;

export interface Caller {
  name: string;
  /**
   * The bearer token; a function where a token can be used only once. Undefined: there is no Authorization
   * header.
   */
  token: string | (() => Promise<string>) | undefined;
  /** Whether it is an access token whose only fault is that it has expired. */
  ranOut?: boolean;
  /** The actions that the token allows; undefined: the token is not valid. */
  may: readonly Action[] | undefined;
  /** Whether the caller owns the objects of the owner. */
  owns: boolean;
  /**
   * The token's claims no longer hold: routes that check them refuse it, and if `begins`, creations do too.
   */
  outdated?: { begins: boolean };
}

export interface Callers {
  owner: TestUser;
  admin: TestUser;
  all: Caller[];
}

/** Makes accounts, keys and tokens on a server that has none. */
export async function makeCallers(processes: Processes): Promise<Callers> {
  const url = () => processes.url;
  const admin = await registerUser(url);
  const [owner, other, locked] = [await registerUser(url), await registerUser(url), await registerUser(url)];
  const second = await registerAdmin(url, processes.database);
  const signedOut = (await newSession(url, owner.email)).as;
  const setDisabled = (id: string) => send(admin, 'PATCH', `/api/admin/users/${id}`, { disabled: true });

  const key = async (as: TestUser, scopes: readonly string[]) =>
    (await send(as, 'POST', '/api/keys', { name: 'matrix', scopes })).json();
  const uploadToken = async (as: TestUser) => (await send(as, 'POST', '/api/upload-tokens', {})).json();
  const external = (sub: string, claims: object = {}) =>
    jwt.sign({ sub, exp: Math.floor(Date.now() / 1000) + 600, ...claims }, provider.privateKey, {
      algorithm: 'RS256',
    });

  const [revokedKey, expiredKey, revokedToken, expiredToken] = [
    await key(owner, SCOPES),
    await key(owner, SCOPES),
    await uploadToken(owner),
    await uploadToken(owner),
  ];
  const ofLocked = { key: (await key(locked, SCOPES)).key, token: (await uploadToken(locked)).token };
  await owner.fetch(`/api/keys/${revokedKey.id}`, { method: 'DELETE' });
  await owner.fetch(`/api/upload-tokens/${revokedToken.id}`, { method: 'DELETE' });
  for (const [table, { id }] of [
    ['api_keys', expiredKey] as const,
    ['upload_tokens', expiredToken] as const,
  ]) {
    await processes.database.query(`UPDATE ${table} SET expires_at = now() WHERE id = $1`, [id]);
  }
  const lockedExternal = external('locked');
  const me = await fetch(`${processes.url}/api/me`, {
    headers: { Authorization: `Bearer ${lockedExternal}` },
  });
  await setDisabled((await me.json()).id);
  await setDisabled(locked.id);
  await processes.database.query(`DELETE FROM sessions WHERE id = $1`, [claimsOf(signedOut.token).sid]);

  const unknown: Record<string, string | undefined> = {
    'no token': undefined,
    'an empty token': '',
    'an expired token': signToken({ userId: owner.id, role: 'user' }, keys.access, -1),
    'changed claims': changeClaims(owner.token, { role: 'admin' }),
    'claims of somebody else': changeClaims(owner.token, { sub: other.id }),
    'a changed signature': changeSignature(owner.token),
    'algorithm none': unsigned({ ...claimsOf(admin.token) }),
    'algorithm None, with a signature': `${unsigned({ ...claimsOf(admin.token) })}${admin.token.split('.')[2]}`,
    'HS256 with the public key of the provider': jwt.sign(claimsOf(admin.token), provider.publicKey),
    'HS256 with that key, without its last line break': jwt.sign(
      claimsOf(admin.token),
      provider.publicKey.trim(),
    ),
    'HS256 with the bare secret': jwt.sign(claimsOf(admin.token), SECRET),
    'a token for the board': signToken({ userId: admin.id, role: 'admin' }, keys.board, 5),
    'a refresh token': (await newSession(url, admin.email)).refreshToken,
    'an access token as an upload token': `lfu_${owner.token}`,
    'an upload token as an access token': (await uploadToken(owner)).token.slice('lfu_'.length),
    'a revoked key': revokedKey.key,
    'an expired key': expiredKey.key,
    'a key with another secret': changeSecret((await key(owner, SCOPES)).key),
    'a key of a disabled account': ofLocked.key,
    'a revoked upload token': revokedToken.token,
    'an expired upload token': expiredToken.token,
    'an upload token of a disabled account': ofLocked.token,
    'an expired token of the provider': external('somebody', { exp: 1 }),
    'a token of the provider for a disabled account': lockedExternal,
  };
  const USER = [...SCOPES, 'account'] as const;
  const ofOther = await key(other, SCOPES);
  const all: Caller[] = [
    ...Object.entries(unknown).map(([name, token]) => ({
      name,
      token,
      may: undefined,
      owns: false,
      ranOut: /^an expired token/.test(name),
    })),
    { name: 'another user', token: other.token, may: USER, owns: false },
    { name: 'another user, by the provider', token: external('another'), may: USER, owns: false },
    { name: 'a key of another user', token: ofOther.key, may: SCOPES, owns: false },
    {
      name: 'an upload token',
      token: async () => (await uploadToken(owner)).token,
      may: ['upload'],
      owns: false,
    },
    { name: 'a disabled user', token: locked.token, may: USER, owns: false, outdated: { begins: false } },
    { name: 'the owner', token: owner.token, may: USER, owns: true },
    {
      name: 'the owner, signed out',
      token: signedOut.token,
      may: USER,
      owns: true,
      outdated: { begins: true },
    },
    { name: 'an admin', token: admin.token, may: [...USER, 'admin'], owns: false },
    { name: 'another admin', token: second.token, may: [...USER, 'admin'], owns: false },
    { name: 'a key of an admin', token: (await key(admin, SCOPES)).key, may: SCOPES, owns: false },
  ];
  for (const scope of SCOPES) {
    const others = SCOPES.filter((one) => one !== scope);
    const [only, without] = [await key(owner, [scope]), await key(owner, others)];
    all.push({ name: `a key that may only ${scope}`, token: only.key, may: [scope], owns: true });
    all.push({ name: `a key that may not ${scope}`, token: without.key, may: others, owns: true });
  }
  return { owner, admin, all };
}

function claimsOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
}

const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString('base64url');

function changeClaims(token: string, change: object): string {
  const [header, , signature] = token.split('.');
  return [header, encode({ ...claimsOf(token), ...change }), signature].join('.');
}

/** Changes the first character: the last one of base64 may hold bits that mean nothing. */
function changeSignature(token: string): string {
  const [header, claims, signature = ''] = token.split('.');
  return [header, claims, (signature.startsWith('A') ? 'B' : 'A') + signature.slice(1)].join('.');
}

const changeSecret = (key: string) => key.slice(0, -43) + randomBytes(32).toString('base64url');

const unsigned = (claims: object) => `${encode({ alg: 'none', typ: 'JWT' })}.${encode(claims)}.`;
