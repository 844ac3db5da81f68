import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { loadConfig } from '../core/config.js';
import { ConfigError } from '../core/config-error.js';

const SECRET = 'x'.repeat(32);
const connected = { DATABASE_URL: 'postgres://u:p@h:5432/d', DATA_DIR_SHARED: 'true', JWT_SECRET: SECRET };

test('nothing set is the standalone form, on loopback', () => {
  expect(loadConfig({})).toMatchObject({
    host: '127.0.0.1',
    port: 3000,
    databaseUrl: undefined,
    trustProxy: false,
    corsOrigins: '*',
    corsHeaders: [],
    maxUploadSize: 5 * 1024 ** 4,
  });
});

test('a database of its own means the connected form, on all addresses', () => {
  expect(loadConfig(connected)).toMatchObject({ host: '0.0.0.0', databaseUrl: connected.DATABASE_URL });
});

test('an empty variable is an unset one', () => {
  expect(loadConfig({ PORT: '', JWT_SECRET: '' }).port).toBe(3000);
});

test.each([
  ['10MiB', 10 * 1024 ** 2],
  ['1 GiB', 1024 ** 3],
  ['123', 123],
])('MAX_UPLOAD_SIZE=%s', (text, bytes) => {
  expect(loadConfig({ MAX_UPLOAD_SIZE: text }).maxUploadSize).toBe(bytes);
});

test.each([
  ['image/*=50MiB', [{ type: 'image/*', maxSize: 50 * 1024 ** 2 }]],
  [
    ' Video/MP4 = 5 GiB , image/*=10',
    [
      { type: 'video/mp4', maxSize: 5 * 1024 ** 3 },
      { type: 'image/*', maxSize: 10 },
    ],
  ],
])('MAX_UPLOAD_SIZE_BY_TYPE=%s', (text, limits) => {
  expect(loadConfig({ MAX_UPLOAD_SIZE_BY_TYPE: text }).maxSizeByType).toEqual(limits);
});

test.each([
  ['off', []],
  ['image/png=quality:80', [{ type: 'image/png', settings: { quality: 80 } }]],
])('OPTIMIZE=%s', (text, settings) => {
  expect(loadConfig({ OPTIMIZE: text }).optimize).toEqual(settings);
});

test.each([
  ['true', true],
  ['false', false],
  ['2', 2],
  ['10.0.0.0/8,loopback', '10.0.0.0/8,loopback'],
])('TRUST_PROXY=%s', (text, value) => {
  expect(loadConfig({ TRUST_PROXY: text }).trustProxy).toBe(value);
});

test.each([
  ['100', { limit: 100, windowMs: 60_000 }],
  ['100/30s', { limit: 100, windowMs: 30_000 }],
  ['100/5m', { limit: 100, windowMs: 300_000 }],
  ['7/24h', { limit: 7, windowMs: 86_400_000 }],
  ['0', undefined],
  ['0/5m', undefined],
])('RATE_LIMIT_UPLOADS=%s', (text, rate) => {
  expect(loadConfig({ RATE_LIMIT_UPLOADS: text }).rateLimits.uploads).toEqual(rate);
});

test.each([
  ['nats://h', { servers: ['h:4222'], tls: false }],
  ['nats://u%40x:p%2Fw@h:1', { servers: ['h:1'], tls: false, user: 'u@x', password: 'p/w' }],
  ['tls://t0ken@[::1]', { servers: ['[::1]:4222'], tls: true, token: 't0ken' }],
  ['nats://a, nats://u:p@b:1/', { servers: ['a:4222', 'b:1'], tls: false, user: 'u', password: 'p' }],
])('NATS_URL=%s', (text, address) => {
  expect(loadConfig({ NATS_URL: text }).nats).toEqual({ ...address, credentialsFile: undefined });
});

test.each([
  ['clamd', { host: 'clamd', port: 3310 }],
  ['10.0.0.7:3311', { host: '10.0.0.7', port: 3311 }],
  ['[::1]:3311', { host: '::1', port: 3311 }],
  ['/run/clamav/clamd.ctl', { path: '/run/clamav/clamd.ctl' }],
])('CLAMAV_HOST=%s', (text, address) => {
  expect(loadConfig({ CLAMAV_HOST: text }).clamav).toEqual({
    address,
    timeoutMs: 300_000,
    maxSize: Number.POSITIVE_INFINITY,
    oversize: 'fail',
    rescan: false,
  });
});

test('a rate of sign-ins without a window is one of a quarter of an hour', () => {
  const { rateLimits } = loadConfig({ RATE_LIMIT_AUTH: '10', RATE_LIMIT_GLOBAL: '0' });
  expect(rateLimits).toEqual({
    uploads: { limit: 1000, windowMs: 60_000 },
    status: { limit: 3000, windowMs: 60_000 },
    downloads: { limit: 3000, windowMs: 60_000 },
    processing: { limit: 300, windowMs: 60_000 },
    auth: { limit: 10, windowMs: 900_000 },
    global: undefined,
  });
});

test.each([
  [{ PORT: 'abc' }, 'PORT=abc: must be a whole number from 0 to 65535'],
  [{ PORT: '70000' }, 'PORT=70000: must be a whole number from 0 to 65535'],
  [{ MAX_UPLOAD_SIZE: '10MB' }, /^MAX_UPLOAD_SIZE=10MB: .*MiB/],
  [{ MAX_UPLOAD_SIZE: '6TiB' }, /at most 5 TiB/],
  ...['image/*', 'image=1', '*/*=1', 'image/*=1MB', 'image/*=0', 'image/*=6TiB', 'image/*=1=2', 'a/b=1,', ',']
    .concat('image/png=1,IMAGE/PNG=2')
    .map((text): [NodeJS.ProcessEnv, RegExp] => [
      { MAX_UPLOAD_SIZE_BY_TYPE: text },
      /^MAX_UPLOAD_SIZE_BY_TYPE=.*: must be types with sizes/,
    ]),
  [{ QUOTA_BYTES: '8192TiB' }, /^QUOTA_BYTES=8192TiB: must be at most 8191 TiB/],
  [{ PUBLIC_URL: 'example.org' }, /^PUBLIC_URL=example.org: must be an http or https address/],
  [{ DATABASE_POOL_SIZE: '1' }, 'DATABASE_POOL_SIZE=1: must be a whole number from 2 to 1000'],
  [{ DATABASE_URL: 'mysql://x' }, /^DATABASE_URL=…: must look like postgres:/],
  [{ DATABASE_URL: 'mysql://u:sekret@h/d' }, /^DATABASE_URL=…: /],
  [{ TRUST_PROXY: 'yes' }, /^TRUST_PROXY=yes: must be true, false, a number of hops, or addresses/],
  [{ TRUST_PROXY: '10.0.0.0/33' }, /^TRUST_PROXY=/],
  [
    { RATE_LIMIT_AUTH: 'many' },
    /^RATE_LIMIT_AUTH=many: must be a number of requests, such as 100, or 100\/5m; 0 /,
  ],
  [{ RATE_LIMIT_AUTH: '-1' }, /^RATE_LIMIT_AUTH=-1: must be a number of requests/],
  [{ RATE_LIMIT_AUTH: '1.5' }, /^RATE_LIMIT_AUTH=1.5: must be a number of requests/],
  [{ RATE_LIMIT_AUTH: '5/m' }, /^RATE_LIMIT_AUTH=5\/m: must be a number of requests/],
  [{ RATE_LIMIT_AUTH: '5/1d' }, /^RATE_LIMIT_AUTH=5\/1d: must be a number of requests/],
  [{ RATE_LIMIT_AUTH: '5/0s' }, /^RATE_LIMIT_AUTH=5\/0s: must have a window of 1s to 24h/],
  [{ RATE_LIMIT_AUTH: '5/25h' }, /^RATE_LIMIT_AUTH=5\/25h: must have a window of 1s to 24h/],
  [{ PARSER_MEMORY: '1MiB' }, /^PARSER_MEMORY=1MiB: must be at least 128 MiB/],
  [{ TRASH_DAYS: '-1' }, 'TRASH_DAYS=-1: must be a whole number from 0 to 36500'],
  [{ TRASH_DAYS: '40000' }, 'TRASH_DAYS=40000: must be a whole number from 0 to 36500'],
  [{ FILE_RETENTION_HOURS: '1.5' }, /^FILE_RETENTION_HOURS=1.5: must be a whole number/],
  [{ TLS_CERT_FILE: 'a.crt' }, /^TLS_CERT_FILE and TLS_KEY_FILE go together/],
  [{ TLS_KEY_FILE: 'a.key' }, /^TLS_CERT_FILE and TLS_KEY_FILE go together/],
  ...[',', 'a,', '*', 'a,**', 'a\u0000', 'x'.repeat(201)].map((text): [NodeJS.ProcessEnv, RegExp] => [
    { DENY_USER_AGENTS: text },
    /^DENY_USER_AGENTS=.*: must be parts of User-Agent headers/,
  ]),
  [{ AUTH: 'none' }, 'AUTH=none: must be on, off or hook'],
  [{ AUTH_OFF_ANYWHERE: 'true' }, /^AUTH_OFF_ANYWHERE is set, but AUTH is not off/],
  [
    { AUTH: 'off', HOST: '0.0.0.0' },
    /^AUTH=off: HOST=0.0.0.0 is reached from other machines, .*AUTH_OFF_ANYWHERE=true/,
  ],
  [{ ...connected, AUTH: 'off' }, /^AUTH=off: HOST=0.0.0.0 /],
  [{ AUTH: 'off', HOST: '::' }, /^AUTH=off: HOST=:: /],
  [{ AUTH: 'off', HOST: '127.0.0.1.evil.example' }, /^AUTH=off: HOST=/],
  [{ AUTH: 'off', TRUST_PROXY: 'loopback' }, /^AUTH=off: TRUST_PROXY says/],
  [
    { AUTH: 'off', PUBLIC_URL: 'https://files.example.org' },
    /^AUTH=off: PUBLIC_URL=https:\/\/files.example.org is /,
  ],
  [{ AUTH: 'off', JWT_JWKS_URL: 'https://i.example/k' }, /^AUTH=off accepts no tokens: unset JWT_JWKS_URL/],
  [{ WEBHOOK_RETRY_SECONDS: '5,0' }, /^WEBHOOK_RETRY_SECONDS=5,0: must be 1 to 50 delays in seconds/],
  [{ WEBHOOK_RETRY_SECONDS: '5;30' }, /^WEBHOOK_RETRY_SECONDS=5;30: must be 1 to 50 delays/],
  [{ WEBHOOK_ALLOW_PRIVATE: 'yes' }, 'WEBHOOK_ALLOW_PRIVATE=yes: must be true or false'],
  [{ JWT_SECRET: 'short' }, 'JWT_SECRET=…: must have at least 32 characters'],
  [{ METRICS_PORT: 'on' }, 'METRICS_PORT=on: must be a whole number from 0 to 65535'],
  [{ METRICS_TOKEN: 'short' }, 'METRICS_TOKEN=…: must be at least 16 letters, digits and . ~ + / = _ -'],
  [{ METRICS_TOKEN: 'a token with spaces in it' }, /^METRICS_TOKEN=…: /],
  [{ LOG_LEVEL: 'loud' }, /^LOG_LEVEL=loud: /],
  [{ LOG_FILE_SIZE: '1KiB' }, /^LOG_FILE_SIZE=1KiB: must be at least 100 KiB/],
  [{ LOG_FILES: '0' }, /^LOG_FILES=0: must be a whole number from 1 to 1000/],
  [{ SLOW_REQUEST_MS: '5s' }, /^SLOW_REQUEST_MS=5s: must be a whole number/],
  [{ ...connected, DATA_DIR_SHARED: '' }, /DATA_DIR_SHARED=true/],
  [{ ...connected, JWT_SECRET: '' }, /^JWT_SECRET is required/],
  [{ CLAMAV_HOST: 'clamd:0' }, /^CLAMAV_HOST=clamd:0: must look like localhost:3310, or be the path/],
  [{ CLAMAV_HOST: 'http://clamd' }, /^CLAMAV_HOST=http:/],
  [{ CLAMAV_HOST: 'clamd', CLAMAV_OVERSIZE: 'x' }, /^CLAMAV_OVERSIZE=x: must be fail or allow/],
  ...['http://h', 'h:4222', 'nats://', 'nats://h/path', 'nats://u:sekret@h?x=1', 'nats://h,', 'nats://a%4@h']
    .concat('nats://a,tls://b', 'nats://u:sekret@a,nats://u:other@b')
    .map((text): [NodeJS.ProcessEnv, RegExp] => [{ NATS_URL: text }, /^NATS_URL=…: must look like nats:/]),
  [
    { OTEL_EXPORTER_OTLP_ENDPOINT: 'h:4318' },
    /^OTEL_EXPORTER_OTLP_ENDPOINT=h:4318: must be an http or https address/,
  ],
  ...['h', 'https://h/1', 'https://key@h', 'https://key:secret@h/1'].map(
    (text): [NodeJS.ProcessEnv, RegExp] => [{ SENTRY_DSN: text }, /^SENTRY_DSN=…: must look like https:/],
  ),
  [{ NATS_CREDS_FILE: 'f' }, /^NATS_CREDS_FILE is set, but NATS_URL is not/],
  [
    { NATS_URL: 'nats://u:p@h', NATS_CREDS_FILE: 'f' },
    /^NATS_CREDS_FILE is set, and NATS_URL has credentials/,
  ],
  [{ REDIS_URL: 'http://u:sekret@h' }, /^REDIS_URL=…: must look like redis:/],
  [{ S3_BUCKET: 'B' }, /^S3_BUCKET=B: must be 3 to 63/],
  [{ S3_ENDPOINT: 'http://h:9000' }, /^S3_ENDPOINT is set, but S3_BUCKET is not/],
  [{ S3_BUCKET: 'bucket', S3_ACCESS_KEY_ID: 'a' }, /set both or neither/],
  [{ S3_BUCKET: 'bucket', S3_KMS_KEY_ID: 'a' }, /^S3_KMS_KEY_ID is set: set S3_SSE=aws:kms too/],
  [{ AUTH: 'hook' }, 'AUTH=hook needs a hook: set HOOK_URL'],
  [{ AUTH: 'hook', HOOK_URL: 'http://h', HOOK_EVENTS: 'pre-finish' }, /^AUTH=hook asks the hook pre-create/],
  [{ HOOK_URL: 'ftp://u:sekret@h' }, 'HOOK_URL=…: must be an http or https address'],
  [{ HOOK_EVENTS: 'pre-create,pre-delete' }, /^HOOK_EVENTS=.*: must be some of pre-create, pre-finish,/],
  [{ HOOK_FORWARD_HEADERS: 'a b' }, /^HOOK_FORWARD_HEADERS=a b: must be names of headers/],
  [{ HOOK_FORWARD_HEADERS: 'Cookie,Host' }, /^HOOK_FORWARD_HEADERS=.*: must be headers such as Cookie/],
  [{ HOOK_TIMEOUT_SECONDS: '0' }, 'HOOK_TIMEOUT_SECONDS=0: must be a whole number from 1 to 60'],
  [{ HOOK_ABSENT: 'yes' }, 'HOOK_ABSENT=yes: must be refuse or allow'],
  [{ UPLOAD_MEMORY_BUDGET: '1MiB' }, /^UPLOAD_MEMORY_BUDGET=1MiB: must be at least 32 MiB/],
])('one clear line for %j', (env, message) => {
  expect(() => loadConfig(env)).toThrow(ConfigError);
  expect(() => loadConfig(env)).toThrow(message);
});

test.each([
  [{ AUTH: 'on', HOST: '0.0.0.0' }, undefined],
  [{ AUTH: 'off' }, 'loopback'],
  [{ AUTH: 'off', HOST: '::1', PUBLIC_URL: 'http://localhost:3000' }, 'loopback'],
  [{ ...connected, AUTH: 'off', HOST: 'localhost' }, 'loopback'],
  [{ AUTH: 'off', HOST: '0.0.0.0', TRUST_PROXY: 'true', AUTH_OFF_ANYWHERE: 'true' }, 'anywhere'],
])('who is served without sign-in by %j', (env, served) => {
  expect(loadConfig(env).authOff).toBe(served);
});

test('.env.example names every variable, with its default', () => {
  const example = readFileSync('.env.example', 'utf8');
  const entries = [...example.matchAll(/^# ([A-Z][A-Z0-9_]+)=(.*)$/gm)].map(([, name = '', value = '']) => [
    name,
    value,
  ]);
  const names = entries.map(([name]) => name);
  const source = readFileSync('core/variables.ts', 'utf8');
  const read = [...source.matchAll(/^ {2}([A-Z][A-Z0-9_]+): /gm)].map(([, name]) => name);
  expect([...names].sort()).toEqual([...read].sort());
  // HOST depends on the form and is checked above.
  expect(loadConfig(Object.fromEntries(entries))).toEqual(loadConfig({}));
});

test('with a bucket, the S3 variables say where and how', () => {
  const { s3 } = loadConfig({ ...connected, DATA_DIR_SHARED: '', S3_BUCKET: 'files', S3_PREFIX: 'a/b' });
  expect(s3).toMatchObject({ bucket: 'files', prefix: 'a/b/', region: 'us-east-1', forcePathStyle: false });
  const own = loadConfig({ S3_BUCKET: 'files', S3_ENDPOINT: 'http://minio:9000/' }).s3;
  expect(own).toMatchObject({ endpoint: 'http://minio:9000', forcePathStyle: true, prefix: '' });
});

test('a hook is asked as tusd asks', () => {
  expect(loadConfig({}).hook).toBeUndefined();
  expect(
    loadConfig({ HOOK_URL: 'http://u:p@10.0.0.1/x?y', HOOK_FORWARD_HEADERS: 'Cookie, x-a' }).hook,
  ).toEqual({
    url: 'http://u:p@10.0.0.1/x?y',
    events: ['pre-create', 'post-create', 'post-receive', 'post-finish', 'post-terminate'],
    forwardHeaders: ['Cookie', 'x-a'],
    timeoutMs: 15_000,
    attempts: 3,
    backoffMs: 1000,
    absent: 'refuse',
    progressMs: 1000,
  });
});

describe('an identity provider', () => {
  const url = 'https://issuer.example/keys/';
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const p256 = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = (key: typeof rsa.publicKey) => String(key.export({ type: 'spki', format: 'pem' }));
  const small = generateKeyPairSync('rsa', { modulusLength: 1024 });
  const p384 = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const ed25519 = generateKeyPairSync('ed25519');
  const pss = generateKeyPairSync('rsa-pss', { modulusLength: 2048 });

  test('is known by the address of its keys, exactly as it is given', () => {
    const provider = loadConfig({
      JWT_JWKS_URL: url,
      JWT_ISSUER: 'https://issuer.example/',
      JWT_AUDIENCE: 'me',
    }).identityProvider;
    expect(provider).toEqual({ keys: { jwksUrl: url }, issuer: 'https://issuer.example/', audience: 'me' });
    expect(loadConfig({}).identityProvider).toBeUndefined();
  });

  test.each([
    ['RSA', spki(rsa.publicKey), rsa.publicKey],
    ['RSA, PKCS #1', String(rsa.publicKey.export({ type: 'pkcs1', format: 'pem' })), rsa.publicKey],
    ['P-256', spki(p256.publicKey), p256.publicKey],
    ['on one line', spki(p256.publicKey).trim().replaceAll('\n', '\\n'), p256.publicKey],
  ])('or by one public key: %s', (_name, pem, key) => {
    const { keys } = loadConfig({ JWT_PUBLIC_KEY: pem }).identityProvider ?? {};
    expect(keys && 'publicKey' in keys && keys.publicKey.equals(key)).toBe(true);
  });

  test.each([
    ['both', { JWT_JWKS_URL: url, JWT_PUBLIC_KEY: spki(rsa.publicKey) }, /both set: set one of them/],
    ['an audience alone', { JWT_AUDIENCE: 'me' }, /^JWT_AUDIENCE is set, but neither JWT_JWKS_URL nor/],
    ['an issuer alone', { JWT_ISSUER: 'x' }, /^JWT_ISSUER is set, but neither JWT_JWKS_URL nor/],
    [
      'no address',
      { JWT_JWKS_URL: 'keys.json' },
      /^JWT_JWKS_URL=keys.json: must be an http or https address/,
    ],
    ['no PEM', { JWT_PUBLIC_KEY: 'MIIBIjAN' }, /RSA of at least 2048 bits .* or P-256/],
    ['half of one', { JWT_PUBLIC_KEY: spki(rsa.publicKey).slice(0, 200) }, /RSA of at least 2048 bits/],
    ['RSA that is too short', { JWT_PUBLIC_KEY: spki(small.publicKey) }, /RSA of at least 2048 bits/],
    ['RSA for PSS only', { JWT_PUBLIC_KEY: spki(pss.publicKey) }, /RSA of at least 2048 bits/],
    ['P-384', { JWT_PUBLIC_KEY: spki(p384.publicKey) }, /or P-256 \(for ES256\)$/],
    ['Ed25519', { JWT_PUBLIC_KEY: spki(ed25519.publicKey) }, /or P-256 \(for ES256\)$/],
    [
      'a private key',
      { JWT_PUBLIC_KEY: String(p256.privateKey.export({ type: 'pkcs8', format: 'pem' })) },
      /^JWT_PUBLIC_KEY: is a private key/,
    ],
  ])('is not known by %s', (_name, env, message) => {
    expect(() => loadConfig(env)).toThrow(ConfigError);
    expect(() => loadConfig(env)).toThrow(message);
    // Of a private key nothing is printed.
    expect(() => loadConfig(env)).not.toThrow(/BEGIN|MII/);
  });
});
