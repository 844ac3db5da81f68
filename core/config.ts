import { createPublicKey, type KeyObject } from 'node:crypto';
import { existsSync } from 'node:fs';
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import { z } from 'zod';

/** 5 TiB, the largest object that S3 stores. */
const LARGEST_UPLOAD = 5 * 1024 ** 4;

const UNITS: Record<string, number> = {
  '': 1,
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

const bytes = z
  .string()
  .regex(/^\d+ ?(B|KiB|MiB|GiB|TiB)?$/, 'must be a number of bytes, or a number with KiB, MiB, GiB or TiB')
  .transform((text) => {
    const [, number = '0', unit = ''] = /^(\d+) ?(\w*)$/.exec(text) ?? [];
    return Number(number) * (UNITS[unit] ?? 1);
  });

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`);

const boolean = z.enum(['true', 'false'], 'must be true or false').transform((text) => text === 'true');

/** In milliseconds. */
const WINDOWS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000 };

/** Timers that are set to more than 24 days fire at once, and who has to wait longer than a day is locked out. */
const LONGEST_WINDOW = 86_400_000;

/** `100` in the usual window, `100/5m` in one of 5 minutes; `0` is no limit. @param usual window in milliseconds */
const rate = (usual: number, limit: number) =>
  z
    .string()
    .regex(
      /^\d{1,9}(\/\d{1,4}[smh])?$/,
      'must be a number of requests, such as 100, or 100/5m; 0 for no limit',
    )
    // Here and not at the end: there it would replace undefined.
    .default(String(limit))
    .transform((text): Rate => {
      const [, requests, number, unit = ''] = /^(\d+)(?:\/(\d+)([smh]))?$/.exec(text) ?? [];
      const windowMs = number ? Number(number) * (WINDOWS[unit] ?? 0) : usual;
      return { limit: Number(requests), windowMs };
    })
    .refine(
      ({ windowMs }) => windowMs >= 1000 && windowMs <= LONGEST_WINDOW,
      'must have a window of 1s to 24h',
    )
    .transform((value) => (value.limit === 0 ? undefined : value));

const exactUrl = z.url({ protocol: /^https?$/, error: 'must be an http or https address' });

/** One that paths are put behind. */
const httpUrl = exactUrl.transform((url) => url.replace(/\/+$/, ''));

/** Values that are never printed. */
const SECRETS = new Set(['JWT_SECRET', 'DATABASE_URL', 'REDIS_URL', 'S3_SECRET_ACCESS_KEY']);

/** Names that belong to parts still to come: silently ignoring one would put bytes or jobs in the wrong place. */
const NOT_YET = ['CLAMAV_HOST', 'NATS_URL'] as const;

/** Names that say nothing without a bucket: whoever sets them means to use S3. */
const S3_NEEDS_BUCKET = [
  'S3_ENDPOINT',
  'S3_ACCESS_KEY_ID',
  'S3_SECRET_ACCESS_KEY',
  'S3_PUBLIC_ENDPOINT',
] as const;

const environment = z.object({
  HOST: z.string().min(1).optional(),
  PORT: integer(0, 65_535).default(3000),
  PUBLIC_URL: httpUrl.optional(),
  TRUST_PROXY: z
    .string()
    .refine(
      isTrustProxy,
      'must be true, false, a number of hops, or addresses and subnets such as 10.0.0.0/8',
    )
    .optional(),
  CORS_ORIGINS: z.string().default('*'),
  DATA_DIR: z.string().min(1).default('./data'),
  DATA_DIR_SHARED: boolean.default(false),
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/, error: 'must look like postgres://user:password@host:5432/database' })
    .optional(),
  REDIS_URL: z
    .url({ protocol: /^rediss?$/, error: 'must look like redis://user:password@host:6379/0' })
    .optional(),
  S3_BUCKET: z
    .string()
    .regex(
      /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/,
      'must be 3 to 63 lower-case letters, digits, dots and hyphens',
    )
    .optional(),
  S3_ENDPOINT: httpUrl.optional(),
  S3_REGION: z.string().min(1).default('us-east-1'),
  S3_ACCESS_KEY_ID: z.string().min(1).optional(),
  S3_SECRET_ACCESS_KEY: z.string().min(1).optional(),
  S3_FORCE_PATH_STYLE: boolean.optional(),
  S3_PREFIX: z
    .string()
    .regex(/^[\w.-]+(\/[\w.-]+)*\/?$/, 'must be letters, digits and . _ -, with / between')
    .optional(),
  S3_PUBLIC_ENDPOINT: httpUrl.optional(),
  S3_REDIRECT: boolean.default(false),
  S3_SSE: z.enum(['AES256', 'aws:kms'], 'must be AES256 or aws:kms').optional(),
  S3_KMS_KEY_ID: z.string().min(1).optional(),
  S3_CHECKSUMS: z
    .enum(['when_required', 'when_supported'], 'must be when_required or when_supported')
    .default('when_required'),
  JWT_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
  ACCESS_TOKEN_MINUTES: integer(1, 1440).default(15),
  JWT_JWKS_URL: exactUrl.optional(),
  JWT_PUBLIC_KEY: z.string().optional(),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).optional(),
  REGISTRATION: z.enum(['open', 'invite', 'closed'], 'must be open, invite or closed').default('open'),
  QUOTA_BYTES: bytes.refine((n) => n <= Number.MAX_SAFE_INTEGER, 'must be at most 8191 TiB').default(0),
  QUOTA_FILES: integer(0, 2 ** 31).default(0),
  RATE_LIMIT_UPLOADS: rate(60_000, 1000),
  RATE_LIMIT_STATUS: rate(60_000, 3000),
  RATE_LIMIT_DOWNLOADS: rate(60_000, 3000),
  RATE_LIMIT_PROCESSING: rate(60_000, 300),
  RATE_LIMIT_AUTH: rate(15 * 60_000, 30),
  RATE_LIMIT_GLOBAL: rate(60_000, 10_000),
  MAX_UPLOAD_SIZE: bytes
    .refine((n) => n > 0 && n <= LARGEST_UPLOAD, 'must be more than 0 and at most 5 TiB')
    .default(LARGEST_UPLOAD),
  UPLOAD_EXPIRY_HOURS: integer(1, 8760).default(24),
  UPLOAD_MEMORY_BUDGET: bytes
    // Less than some parts in flight would be no faster than one.
    .refine((n) => n >= 32 * 1024 ** 2, 'must be at least 32 MiB')
    .default(48 * 1024 ** 2),
  WORKER_CONCURRENCY: integer(1, 64).default(4),
  JOB_ATTEMPTS: integer(1, 50).default(8),
  JOB_BACKOFF_MS: integer(10, 3_600_000).default(2000),
  MAX_IMAGE_PIXELS: integer(1, 2 ** 31).default(100_000_000),
  PARSER_TIMEOUT_SECONDS: integer(1, 3600).default(60),
  PARSER_MEMORY: bytes
    // A process that has only just started takes some 60 MiB.
    .refine((n) => n >= 128 * 1024 ** 2, 'must be at least 128 MiB')
    .default(1024 ** 3),
  INSTANCE_ID: z
    .string()
    .regex(/^[\w.:-]{1,100}$/, 'must be letters, digits and . : - _')
    .optional(),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
});

export interface Config {
  host: string;
  /** 0 lets the system choose a free port. */
  port: number;
  /** Origin (and path prefix) that clients reach this server at; undefined: taken from each request. */
  publicUrl: string | undefined;
  /** Value of Express' `trust proxy`. */
  trustProxy: boolean | number | string;
  /** Origins that browsers may call from, or '*'. */
  corsOrigins: '*' | string[];
  dataDir: string;
  /** Undefined in standalone: the supervisor then starts its own PostgreSQL. */
  databaseUrl: string | undefined;
  /** Undefined: the queue is kept in PostgreSQL, and each server counts for its own rate limits. */
  redisUrl: string | undefined;
  /** Undefined: bytes are kept in `dataDir`. */
  s3: S3Config | undefined;
  /** Bytes of uploads that this process may hold in memory on their way to S3. */
  uploadMemoryBudget: number;
  /** Undefined in standalone: the supervisor then keeps one in the data folder. */
  jwtSecret: string | undefined;
  accessTokenMinutes: number;
  /** Whose tokens are taken besides our own; undefined: nobody's. */
  identityProvider: IdentityProvider | undefined;
  /** Who may make an account: everybody, who has an invitation, nobody but the first one. */
  registration: 'open' | 'invite' | 'closed';
  /** Of users who have none of their own. */
  quota: Quota;
  rateLimits: RateLimits;
  /** Bytes. */
  maxUploadSize: number;
  uploadExpiryHours: number;
  workerConcurrency: number;
  jobAttempts: number;
  /** Delay before the second attempt; doubled for each further one. */
  jobBackoffMs: number;
  maxImagePixels: number;
  parserTimeoutSeconds: number;
  /** Bytes of resident memory that one parser process may use. */
  parserMemory: number;
  /**
   * A name that no other living server has, and that this one keeps when it is started again: it then need not
   * wait for the leases of its former self to run out.
   */
  instanceId: string | undefined;
  logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
}

/** How much one user may hold: bytes, and files. */
export interface Quota {
  bytes: number;
  files: number;
}

/** In a quota: no limit. */
export const UNLIMITED = -1;

/** How many requests in a window; undefined: any number. */
export interface Rate {
  limit: number;
  /** Milliseconds. */
  windowMs: number;
}

export type RateLimits = Record<
  'uploads' | 'status' | 'downloads' | 'processing' | 'auth' | 'global',
  Rate | undefined
>;

/** Whose access tokens (JWT, RS256 or ES256) are taken. */
export interface IdentityProvider {
  /** An address of keys (RFC 7517), or one public key (PEM). */
  keys: { jwksUrl: string } | { publicKey: KeyObject };
  /** What `iss` and `aud` of a token must be; undefined: anything. */
  issuer: string | undefined;
  audience: string | undefined;
}

/** Where and how objects are kept in S3. */
export interface S3Config {
  bucket: string;
  /** Undefined: AWS, by region. */
  endpoint: string | undefined;
  region: string;
  /** Undefined: the credential chain of the AWS SDK (environment, profile, container or instance role). */
  credentials: { accessKeyId: string; secretAccessKey: string } | undefined;
  /** `endpoint/bucket/key` instead of `bucket.endpoint/key`. */
  forcePathStyle: boolean;
  /** What all keys begin with: empty, or ending with a slash. */
  prefix: string;
  /** Where clients reach S3, for addresses that are handed out; undefined: at `endpoint`. */
  publicEndpoint: string | undefined;
  /** Whether downloads are sent to S3 instead of going through this server. */
  redirect: boolean;
  /** Encryption by the store (the x-amz-server-side-encryption header); undefined: as the bucket is set. */
  sse: 'AES256' | 'aws:kms' | undefined;
  kmsKeyId: string | undefined;
  /** `when_supported`: what is sent from memory carries a Content-MD5, and the SDK adds its checksums. */
  checksums: 'when_required' | 'when_supported';
}

/** A variable of the environment has a value that cannot be used. The message names it and says what would do. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

/** The environment of this process, completed from a `.env` file in the current folder if there is one. */
export function readEnvironment(): NodeJS.ProcessEnv {
  if (existsSync('.env')) process.loadEnvFile('.env');
  return process.env;
}

/**
 * Reads the configuration. The only place that looks at environment variables.
 * @throws {ConfigError} naming the first variable that is wrong
 */
export function loadConfig(env: NodeJS.ProcessEnv): Readonly<Config> {
  // `FOO=` in a .env file means "not set".
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const parsed = environment.safeParse(set);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const name = String(issue?.path[0]);
    throw new ConfigError(`${name}=${SECRETS.has(name) ? '…' : set[name]}: ${issue?.message}`);
  }
  for (const name of NOT_YET) {
    if (set[name]) throw new ConfigError(`${name} is set, but this version cannot use it yet: unset it`);
  }
  const e = parsed.data;
  if (e.DATABASE_URL && !e.S3_BUCKET && !e.DATA_DIR_SHARED) {
    throw new ConfigError(
      'DATABASE_URL is set, but files are kept in a folder of this machine: set S3_BUCKET, or DATA_DIR_SHARED=true ' +
        'if every server and worker sees the same DATA_DIR',
    );
  }
  if (e.DATABASE_URL && !e.JWT_SECRET) {
    throw new ConfigError('JWT_SECRET is required with DATABASE_URL: use at least 32 random characters');
  }
  return Object.freeze({
    host: e.HOST ?? (e.DATABASE_URL ? '0.0.0.0' : '127.0.0.1'),
    port: e.PORT,
    publicUrl: e.PUBLIC_URL,
    trustProxy: parseTrustProxy(e.TRUST_PROXY),
    corsOrigins:
      e.CORS_ORIGINS.trim() === '*' ? '*' : e.CORS_ORIGINS.split(',').map((origin) => origin.trim()),
    dataDir: resolve(e.DATA_DIR),
    databaseUrl: e.DATABASE_URL,
    redisUrl: e.REDIS_URL,
    s3: readS3(e),
    uploadMemoryBudget: e.UPLOAD_MEMORY_BUDGET,
    jwtSecret: e.JWT_SECRET,
    accessTokenMinutes: e.ACCESS_TOKEN_MINUTES,
    identityProvider: readIdentityProvider(e),
    registration: e.REGISTRATION,
    quota: { bytes: e.QUOTA_BYTES || UNLIMITED, files: e.QUOTA_FILES || UNLIMITED },
    rateLimits: {
      uploads: e.RATE_LIMIT_UPLOADS,
      status: e.RATE_LIMIT_STATUS,
      downloads: e.RATE_LIMIT_DOWNLOADS,
      processing: e.RATE_LIMIT_PROCESSING,
      auth: e.RATE_LIMIT_AUTH,
      global: e.RATE_LIMIT_GLOBAL,
    },
    maxUploadSize: e.MAX_UPLOAD_SIZE,
    uploadExpiryHours: e.UPLOAD_EXPIRY_HOURS,
    workerConcurrency: e.WORKER_CONCURRENCY,
    jobAttempts: e.JOB_ATTEMPTS,
    jobBackoffMs: e.JOB_BACKOFF_MS,
    maxImagePixels: e.MAX_IMAGE_PIXELS,
    parserTimeoutSeconds: e.PARSER_TIMEOUT_SECONDS,
    parserMemory: e.PARSER_MEMORY,
    instanceId: e.INSTANCE_ID,
    logLevel: e.LOG_LEVEL,
  });
}

/** @throws {ConfigError} when one variable makes no sense without, or with, another */
function readS3(e: z.infer<typeof environment>): S3Config | undefined {
  if (!e.S3_BUCKET) {
    const stray = S3_NEEDS_BUCKET.find((name) => e[name] !== undefined);
    if (stray)
      throw new ConfigError(`${stray} is set, but S3_BUCKET is not: set the bucket, or unset ${stray}`);
    return undefined;
  }
  if ((e.S3_ACCESS_KEY_ID === undefined) !== (e.S3_SECRET_ACCESS_KEY === undefined)) {
    throw new ConfigError('S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together: set both or neither');
  }
  if (e.S3_KMS_KEY_ID && e.S3_SSE !== 'aws:kms') {
    throw new ConfigError('S3_KMS_KEY_ID is set: set S3_SSE=aws:kms too');
  }
  return {
    bucket: e.S3_BUCKET,
    endpoint: e.S3_ENDPOINT,
    region: e.S3_REGION,
    credentials:
      e.S3_ACCESS_KEY_ID && e.S3_SECRET_ACCESS_KEY
        ? { accessKeyId: e.S3_ACCESS_KEY_ID, secretAccessKey: e.S3_SECRET_ACCESS_KEY }
        : undefined,
    // AWS wants the bucket in the host name; nearly everything with an address of its own wants it in the path.
    forcePathStyle: e.S3_FORCE_PATH_STYLE ?? e.S3_ENDPOINT !== undefined,
    prefix: e.S3_PREFIX ? e.S3_PREFIX.replace(/\/?$/, '/') : '',
    publicEndpoint: e.S3_PUBLIC_ENDPOINT,
    redirect: e.S3_REDIRECT,
    sse: e.S3_SSE,
    kmsKeyId: e.S3_KMS_KEY_ID,
    checksums: e.S3_CHECKSUMS,
  };
}

/** @throws {ConfigError} when the key cannot be read, or one variable makes no sense without, or with, another */
function readIdentityProvider(e: z.infer<typeof environment>): IdentityProvider | undefined {
  if (e.JWT_JWKS_URL && e.JWT_PUBLIC_KEY) {
    throw new ConfigError('JWT_JWKS_URL and JWT_PUBLIC_KEY are both set: set one of them');
  }
  const audience = { issuer: e.JWT_ISSUER, audience: e.JWT_AUDIENCE };
  if (e.JWT_JWKS_URL) return { keys: { jwksUrl: e.JWT_JWKS_URL }, ...audience };
  if (e.JWT_PUBLIC_KEY) return { keys: { publicKey: readPublicKey(e.JWT_PUBLIC_KEY) }, ...audience };
  const stray = (['JWT_ISSUER', 'JWT_AUDIENCE'] as const).find((name) => e[name] !== undefined);
  if (!stray) return undefined;
  throw new ConfigError(`${stray} is set, but neither JWT_JWKS_URL nor JWT_PUBLIC_KEY is: set one of them`);
}

/** Of an RSA key, in bits (RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used"). */
const MIN_MODULUS = 2048;

/** @param pem SPKI, PKCS #1 or a certificate, with line breaks or with `\\n` for them */
function readPublicKey(pem: string): KeyObject {
  if (/PRIVATE KEY/.test(pem)) {
    throw new ConfigError('JWT_PUBLIC_KEY: is a private key, which belongs nowhere but to its owner');
  }
  try {
    const key = createPublicKey(pem.replaceAll('\\n', '\n'));
    const { modulusLength = 0, namedCurve } = key.asymmetricKeyDetails ?? {};
    const isRsa = key.asymmetricKeyType === 'rsa' && modulusLength >= MIN_MODULUS;
    if (isRsa || namedCurve === 'prime256v1') return key;
  } catch {
    // Said below.
  }
  throw new ConfigError(
    'JWT_PUBLIC_KEY: must be a public key in PEM: RSA of at least 2048 bits (for RS256) or P-256 (for ES256)',
  );
}

function isTrustProxy(text: string): boolean {
  return /^(true|false|\d+)$/.test(text) || text.split(',').every((part) => isSubnet(part.trim()));
}

function isSubnet(text: string): boolean {
  if (['loopback', 'linklocal', 'uniquelocal'].includes(text)) return true;
  const [address = '', bits, ...more] = text.split('/');
  const version = isIP(address);
  if (version === 0 || more.length > 0) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128));
}

/** `true`, `false`, a number of hops, or addresses and subnets separated by commas, as Express takes them. */
function parseTrustProxy(text: string | undefined): boolean | number | string {
  if (text === undefined || text === 'false') return false;
  if (text === 'true') return true;
  return /^\d+$/.test(text) ? Number(text) : text;
}

/** What server and worker need and only the supervisor may leave out. @throws {ConfigError} */
export function requireConnected(config: Config): { databaseUrl: string; jwtSecret: string } {
  if (!config.databaseUrl || !config.jwtSecret) {
    throw new ConfigError(
      'DATABASE_URL and JWT_SECRET are required here; `npm start` provides both by itself',
    );
  }
  return { databaseUrl: config.databaseUrl, jwtSecret: config.jwtSecret };
}
