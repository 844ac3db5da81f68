import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose';

/** An identity provider as far as it concerns Landfall: it signs tokens and publishes its keys. */
export interface IdentityProvider {
  issuer: string;
  /** The value for JWT_JWKS_URL. */
  jwksUrl: string;
  /** How often its keys were asked for. */
  readonly asked: number;
  /** The answer at the address of the keys from now on; undefined: the connection is cut. */
  answerWith(answer: 'keys' | 'nonsense' | 'error' | 'nothing'): void;
  /** Makes a pair of keys and publishes it under its id. */
  addKey(kid: string, algorithm: string): Promise<void>;
  removeKey(kid: string): void;
  /** A token by the key of that id, good for five minutes. */
  sign(kid: string, claims?: Claims): Promise<string>;
  close(): Promise<void>;
}

/** Those that are undefined are left out. */
export type Claims = Record<string, unknown>;

export const AUDIENCE = 'landfall';

/** Starts one that has the keys `rsa` (RS256) and `ec` (ES256). */
export async function startIdentityProvider(): Promise<IdentityProvider> {
  const keys = new Map<string, { algorithm: string; privateKey: CryptoKey; jwk: JWK }>();
  let asked = 0;
  let mode: Parameters<IdentityProvider['answerWith']>[0] = 'keys';
  const http = createServer((req, res) => {
    asked++;
    if (req.url !== '/keys/') res.writeHead(404).end();
    else if (mode === 'nothing') res.destroy();
    else if (mode === 'error') res.writeHead(500).end();
    else if (mode === 'nonsense') res.end('<html>');
    else res.end(JSON.stringify({ keys: [...keys.values()].map(({ jwk }) => jwk) }));
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${(http.address() as AddressInfo).port}/`;

  const provider: IdentityProvider = {
    issuer,
    jwksUrl: `${issuer}keys/`,
    get asked() {
      return asked;
    },
    answerWith(answer) {
      mode = answer;
    },
    async addKey(kid, algorithm) {
      const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
      const jwk = { ...(await exportJWK(publicKey)), kid, alg: algorithm, use: 'sig' };
      keys.set(kid, { algorithm, privateKey, jwk });
    },
    removeKey: (kid) => keys.delete(kid),
    async sign(kid, claims = {}) {
      const key = keys.get(kid);
      if (!key) throw new Error(`there is no key ${kid}`);
      return signWith(key.privateKey, key.algorithm, { iss: issuer, aud: AUDIENCE, ...claims }, kid);
    },
    close: () =>
      new Promise((resolve) => {
        http.close(() => resolve());
        http.closeAllConnections();
      }),
  };
  await provider.addKey('rsa', 'RS256');
  await provider.addKey('ec', 'ES256');
  return provider;
}

/** A token by any key. */
export async function signWith(
  key: CryptoKey | Uint8Array,
  algorithm: string,
  claims: Claims,
  kid?: string,
): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const all = { iat: now, exp: now + 300, ...claims };
  const present = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  return new SignJWT(present).setProtectedHeader({ alg: algorithm, ...(kid ? { kid } : {}) }).sign(key);
}
