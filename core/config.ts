import { createPublicKey, type KeyObject } from 'node:crypto';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { HookType } from './hooks/question.js';
import type { LogFiles } from './log-files.js';
import { isLoopback } from './loopback.js';
import type { NatsAddress } from './nats-address.js';
import type { TypeLimit } from './uploads/size-limits.js';
import { type Environment, environment } from './variables.js';

/** Values that are never printed. */
const SECRETS = new Set([
  'JWT_SECRET',
  'DATABASE_URL',
  'REDIS_URL',
  'S3_SECRET_ACCESS_KEY',
  'METRICS_TOKEN',
  'HOOK_URL',
  'NATS_URL',
]);

/** Variables of features that do not exist yet. Each is refused, because ignoring it silently would mislead. */
const NOT_YET = ['CLAMAV_HOST'] as const;

/** Variables that need S3_BUCKET. Setting one without it is a mistake: the operator means to use S3. */
const S3_NEEDS_BUCKET = [
  'S3_ENDPOINT',
  'S3_ACCESS_KEY_ID',
  'S3_SECRET_ACCESS_KEY',
  'S3_PUBLIC_ENDPOINT',
] as const;

export interface Config {
  host: string;
  /** 0 lets the system choose a free port. */
  port: number;
  /** Origin (and path prefix) at which clients reach this server; undefined: taken from each request. */
  publicUrl: string | undefined;
  /** Undefined: the server speaks plain HTTP. */
  tls: TlsFiles | undefined;
  /** Patterns of User-Agent headers that are refused. */
  deniedUserAgents: readonly string[];
  /** Value of Express' `trust proxy`. */
  trustProxy: boolean | number | string;
  /** Origins that browsers may call from, or '*'. */
  corsOrigins: '*' | string[];
  /** Headers that pages may send in addition to ours and those of common tracing tools. */
  corsHeaders: string[];
  dataDir: string;
  /** Undefined in standalone: the supervisor then starts its own PostgreSQL. */
  databaseUrl: string | undefined;
  /** Connections to PostgreSQL of one server or worker, not counting its queue's and the one that listens. */
  databasePoolSize: number;
  /** Undefined: the queue is kept in PostgreSQL, and each server counts for its own rate limits. */
  redisUrl: string | undefined;
  /** Undefined: bytes are kept in `dataDir`. */
  s3: S3Config | undefined;
  /** The NATS server to which the worker publishes events; undefined: none. */
  nats: NatsConfig | undefined;
  /** Bytes of uploads that this process may hold in memory on their way to the storage. */
  uploadMemoryBudget: number;
  /** Bytes of slow uploads that this process may keep on local disk on their way to S3; 0: none. */
  uploadSpoolBudget: number;
  /** Bytes of the disk that uploads must leave free when objects are files; undefined: see disk-room.ts. */
  diskReserve: number | undefined;
  /** Threads on which this process reads, writes and hashes. */
  threadPoolSize: number;
  /** Set with AUTH=off: who may reach this server, where every request acts as the local account. */
  authOff: AuthOff | undefined;
  /** Undefined in standalone: the supervisor then keeps one in the data folder. */
  jwtSecret: string | undefined;
  accessTokenMinutes: number;
  /** The provider whose tokens are accepted besides our own; undefined: none. */
  identityProvider: IdentityProvider | undefined;
  /** `invite` admits people with an invitation; `closed` admits no one after the first account. */
  registration: 'open' | 'invite' | 'closed';
  /** Undefined: no hook is asked. */
  hook: HookConfig | undefined;
  /** Whether a hook decides about new uploads whose sender this server does not know; it names their owner. */
  hookAuth: boolean;
  /** The quota of users for whom no admin has set one. */
  quota: Quota;
  rateLimits: RateLimits;
  /** Bytes. */
  maxUploadSize: number;
  /** Lower limits for some types of files. */
  maxSizeByType: readonly TypeLimit[];
  uploadExpiryHours: number;
  /** Days for which a deleted file stays in the trash; 0: until the trash is too full. */
  trashDays: number;
  /** Hours for which a file is kept, counted from the end of its upload; 0: no limit. */
  fileRetentionHours: number;
  /** Port on which a worker answers health checks; undefined: none. */
  healthPort: number | undefined;
  /** Port on which a server or worker tells its metrics; undefined: none. */
  metricsPort: number | undefined;
  /** The token for /metrics; undefined: the server's own port does not tell metrics, and the other one needs no token. */
  metricsToken: string | undefined;
  workerConcurrency: number;
  jobAttempts: number;
  /** Delay before the second attempt; doubled for each further one. */
  jobBackoffMs: number;
  maxImagePixels: number;
  parserTimeoutSeconds: number;
  /** Bytes of resident memory that one parser process may use. */
  parserMemory: number;
  /** Seconds before each repetition of a failed delivery to a webhook. */
  webhookRetrySeconds: readonly number[];
  /** Whether webhooks may be in private networks. */
  webhookAllowPrivate: boolean;
  /**
   * A name that this server or worker keeps when it is restarted and that no other living server (or worker) has. After
   * a restart the process ends the leases under its name at once instead of waiting until they run out.
   */
  instanceId: string | undefined;
  logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
  /** Where traces are sent (OTLP over HTTP); undefined: none are made. */
  otlpEndpoint: string | undefined;
  /** Undefined: logs go to stdout. */
  logFiles: LogFiles | undefined;
  /** Milliseconds for which a client waits for the server, from which on a request is logged as a slow one; 0: none is. */
  slowRequestMs: number;
}

/** Absolute paths of PEM files. */
export interface TlsFiles {
  certFile: string;
  keyFile: string;
}

export interface NatsConfig extends NatsAddress {
  /** A file with the JWT and the key of a user of NATS. */
  credentialsFile: string | undefined;
}

/** Without sign-in: only programs on this machine are served, or all that reach the server. */
export type AuthOff = 'loopback' | 'anywhere';

/** How much one user may hold: bytes, and files. */
export interface Quota {
  bytes: number;
  files: number;
}

/** In a quota: no limit. */
export const UNLIMITED = -1;

/** How many requests are allowed in a window. */
export interface Rate {
  limit: number;
  /** Milliseconds. */
  windowMs: number;
}

export type RateLimits = Record<
  'uploads' | 'status' | 'downloads' | 'processing' | 'auth' | 'global',
  Rate | undefined
>;

/** A provider whose access tokens (JWT, RS256 or ES256) are accepted. */
export interface IdentityProvider {
  /** The address of a key set (RFC 7517), or one public key (PEM). */
  keys: { jwksUrl: string } | { publicKey: KeyObject };
  /** Required `iss` and `aud` of a token; undefined: any value. */
  issuer: string | undefined;
  audience: string | undefined;
}

/** A receiver that is asked before this server acts, and told of it; see core/hooks. */
export interface HookConfig {
  /** May have a user and a password. */
  url: string;
  events: readonly HookType[];
  /** Names of headers that are sent on with the question. */
  forwardHeaders: readonly string[];
  /** For all attempts of one question together. */
  timeoutMs: number;
  attempts: number;
  backoffMs: number;
  /** What it means when the receiver gives no answer. */
  absent: 'refuse' | 'allow';
  /** The shortest time between two reports of an upload's progress. */
  progressMs: number;
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
  /** Prefix of all keys: empty, or ending with a slash. */
  prefix: string;
  /** Address at which clients reach S3, for signed addresses; undefined: `endpoint`. */
  publicEndpoint: string | undefined;
  /** Whether downloads are sent to S3 instead of going through this server. */
  redirect: boolean;
  /** Encryption by the store (the x-amz-server-side-encryption header); undefined: the bucket's setting. */
  sse: 'AES256' | 'aws:kms' | undefined;
  kmsKeyId: string | undefined;
  /** `when_supported`: bodies sent from memory carry a Content-MD5, and the SDK adds its checksums. */
  checksums: 'when_required' | 'when_supported';
}

/** An environment variable has a value that cannot be used. The message names the variable and says what is allowed. */
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
  const e = readVariables(env);
  const host = e.HOST ?? (e.DATABASE_URL ? '0.0.0.0' : '127.0.0.1');
  return Object.freeze({
    host,
    port: e.PORT,
    publicUrl: e.PUBLIC_URL,
    tls: readTlsFiles(e),
    deniedUserAgents: e.DENY_USER_AGENTS,
    trustProxy: e.TRUST_PROXY,
    corsOrigins:
      e.CORS_ORIGINS.trim() === '*' ? '*' : e.CORS_ORIGINS.split(',').map((origin) => origin.trim()),
    corsHeaders: e.CORS_HEADERS?.split(',').map((name) => name.trim()) ?? [],
    dataDir: resolve(e.DATA_DIR),
    databaseUrl: e.DATABASE_URL,
    databasePoolSize: e.DATABASE_POOL_SIZE,
    redisUrl: e.REDIS_URL,
    s3: readS3(e),
    nats: readNats(e),
    uploadMemoryBudget: e.UPLOAD_MEMORY_BUDGET,
    uploadSpoolBudget: e.UPLOAD_SPOOL_BUDGET,
    diskReserve: e.DISK_RESERVE,
    threadPoolSize: e.UV_THREADPOOL_SIZE,
    authOff: readAuthOff(e, host),
    jwtSecret: e.JWT_SECRET,
    accessTokenMinutes: e.ACCESS_TOKEN_MINUTES,
    identityProvider: readIdentityProvider(e),
    registration: e.REGISTRATION,
    hook: readHook(e),
    hookAuth: e.AUTH === 'hook',
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
    maxSizeByType: e.MAX_UPLOAD_SIZE_BY_TYPE,
    uploadExpiryHours: e.UPLOAD_EXPIRY_HOURS,
    trashDays: e.TRASH_DAYS,
    fileRetentionHours: e.FILE_RETENTION_HOURS,
    healthPort: e.HEALTH_PORT,
    metricsPort: e.METRICS_PORT,
    metricsToken: e.METRICS_TOKEN,
    workerConcurrency: e.WORKER_CONCURRENCY,
    jobAttempts: e.JOB_ATTEMPTS,
    jobBackoffMs: e.JOB_BACKOFF_MS,
    maxImagePixels: e.MAX_IMAGE_PIXELS,
    parserTimeoutSeconds: e.PARSER_TIMEOUT_SECONDS,
    parserMemory: e.PARSER_MEMORY,
    webhookRetrySeconds: e.WEBHOOK_RETRY_SECONDS,
    webhookAllowPrivate: e.WEBHOOK_ALLOW_PRIVATE,
    instanceId: e.INSTANCE_ID,
    logLevel: e.LOG_LEVEL,
    otlpEndpoint: e.OTEL_EXPORTER_OTLP_ENDPOINT,
    logFiles: e.LOG_DIR
      ? { dir: resolve(e.LOG_DIR), maxBytes: e.LOG_FILE_SIZE, count: e.LOG_FILES }
      : undefined,
    slowRequestMs: e.SLOW_REQUEST_MS,
  });
}

/** The variables, with their defaults. @throws {ConfigError} when one is invalid, or needs another that is not set */
function readVariables(env: NodeJS.ProcessEnv): Environment {
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
  return e;
}

/** @throws {ConfigError} when one variable requires or excludes another */
function readS3(e: Environment): S3Config | undefined {
  if (!e.S3_BUCKET) {
    const alone = S3_NEEDS_BUCKET.find((name) => e[name] !== undefined);
    if (!alone) return undefined;
    throw new ConfigError(`${alone} is set, but S3_BUCKET is not: set the bucket, or unset ${alone}`);
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
    // AWS wants the bucket in the host name. Nearly all other stores, which need S3_ENDPOINT, want it in the path.
    forcePathStyle: e.S3_FORCE_PATH_STYLE ?? e.S3_ENDPOINT !== undefined,
    prefix: e.S3_PREFIX ? e.S3_PREFIX.replace(/\/?$/, '/') : '',
    publicEndpoint: e.S3_PUBLIC_ENDPOINT,
    redirect: e.S3_REDIRECT,
    sse: e.S3_SSE,
    kmsKeyId: e.S3_KMS_KEY_ID,
    checksums: e.S3_CHECKSUMS,
  };
}

/** The server reads the files itself, see server/http/tls.ts. @throws {ConfigError} when one variable lacks the other */
function readTlsFiles(e: Environment): TlsFiles | undefined {
  if ((e.TLS_CERT_FILE === undefined) !== (e.TLS_KEY_FILE === undefined)) {
    throw new ConfigError('TLS_CERT_FILE and TLS_KEY_FILE go together: set both or neither');
  }
  return e.TLS_CERT_FILE && e.TLS_KEY_FILE
    ? { certFile: resolve(e.TLS_CERT_FILE), keyFile: resolve(e.TLS_KEY_FILE) }
    : undefined;
}

/** @throws {ConfigError} when one variable requires or excludes another */
function readNats(e: Environment): NatsConfig | undefined {
  if (e.NATS_CREDS_FILE && !e.NATS_URL) {
    throw new ConfigError(
      'NATS_CREDS_FILE is set, but NATS_URL is not: set the address, or unset NATS_CREDS_FILE',
    );
  }
  if (e.NATS_CREDS_FILE && (e.NATS_URL?.user || e.NATS_URL?.token)) {
    throw new ConfigError('NATS_CREDS_FILE is set, and NATS_URL has credentials too: use one of them');
  }
  return e.NATS_URL && { ...e.NATS_URL, credentialsFile: e.NATS_CREDS_FILE };
}

/** @throws {ConfigError} when one variable requires another */
function readHook(e: Environment): HookConfig | undefined {
  if (!e.HOOK_URL) {
    if (e.AUTH === 'hook') throw new ConfigError('AUTH=hook needs a hook: set HOOK_URL');
    return undefined;
  }
  if (e.AUTH === 'hook' && !e.HOOK_EVENTS.includes('pre-create')) {
    throw new ConfigError('AUTH=hook asks the hook pre-create: name it in HOOK_EVENTS');
  }
  return {
    url: e.HOOK_URL,
    events: e.HOOK_EVENTS,
    forwardHeaders: e.HOOK_FORWARD_HEADERS,
    timeoutMs: e.HOOK_TIMEOUT_SECONDS * 1000,
    attempts: e.HOOK_ATTEMPTS,
    backoffMs: e.HOOK_BACKOFF_MS,
    absent: e.HOOK_ABSENT,
    progressMs: e.HOOK_PROGRESS_SECONDS * 1000,
  };
}

/** @throws {ConfigError} when others than this machine could act without sign-in, and nobody has said that they may */
function readAuthOff(e: Environment, host: string): AuthOff | undefined {
  if (e.AUTH !== 'off') {
    if (!e.AUTH_OFF_ANYWHERE) return undefined;
    throw new ConfigError('AUTH_OFF_ANYWHERE is set, but AUTH is not off: unset AUTH_OFF_ANYWHERE');
  }
  const provider = (['JWT_JWKS_URL', 'JWT_PUBLIC_KEY'] as const).find((name) => e[name] !== undefined);
  if (provider) throw new ConfigError(`AUTH=off accepts no tokens: unset ${provider}, or set AUTH=on`);
  if (e.AUTH_OFF_ANYWHERE) return 'anywhere';
  const openTo = (what: string) =>
    new ConfigError(
      `AUTH=off: ${what}, so that others could read and delete everything without signing in: change that, set ` +
        'AUTH=on, or set AUTH_OFF_ANYWHERE=true if all who can reach this server may do everything',
    );
  if (!isLoopback(host)) throw openTo(`HOST=${host} is reached from other machines`);
  if (e.TRUST_PROXY !== false) throw openTo('TRUST_PROXY says that a proxy passes on requests of others');
  if (e.PUBLIC_URL && !isLoopback(new URL(e.PUBLIC_URL).hostname)) {
    throw openTo(`PUBLIC_URL=${e.PUBLIC_URL} is an address for other machines`);
  }
  return 'loopback';
}

/** @throws {ConfigError} when the key cannot be read, or one variable requires or excludes another */
function readIdentityProvider(e: Environment): IdentityProvider | undefined {
  if (e.JWT_JWKS_URL && e.JWT_PUBLIC_KEY) {
    throw new ConfigError('JWT_JWKS_URL and JWT_PUBLIC_KEY are both set: set one of them');
  }
  const audience = { issuer: e.JWT_ISSUER, audience: e.JWT_AUDIENCE };
  if (e.JWT_JWKS_URL) return { keys: { jwksUrl: e.JWT_JWKS_URL }, ...audience };
  if (e.JWT_PUBLIC_KEY) return { keys: { publicKey: readPublicKey(e.JWT_PUBLIC_KEY) }, ...audience };
  const alone = (['JWT_ISSUER', 'JWT_AUDIENCE'] as const).find((name) => e[name] !== undefined);
  if (!alone) return undefined;
  throw new ConfigError(`${alone} is set, but neither JWT_JWKS_URL nor JWT_PUBLIC_KEY is: set one of them`);
}

/** Bits of an RSA key (RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used"). */
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
    // The error below says what is allowed.
  }
  throw new ConfigError(
    'JWT_PUBLIC_KEY: must be a public key in PEM: RSA of at least 2048 bits (for RS256) or P-256 (for ES256)',
  );
}

/** Returns the variables that server and worker require; only the supervisor may omit them. @throws {ConfigError} */
export function requireConnected(config: Config): { databaseUrl: string; jwtSecret: string } {
  if (!config.databaseUrl || !config.jwtSecret) {
    throw new ConfigError(
      'DATABASE_URL and JWT_SECRET are required here; `npm start` provides both by itself',
    );
  }
  return { databaseUrl: config.databaseUrl, jwtSecret: config.jwtSecret };
}
