import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { ConfigError } from './config-error.js';
import {
  type AuthOff,
  type ClamavConfig,
  type HookConfig,
  type IdentityProvider,
  type NatsConfig,
  readAuthOff,
  readClamav,
  readHook,
  readIdentityProvider,
  readNats,
  readS3,
  readTlsFiles,
  type S3Config,
  type TlsFiles,
} from './config-groups.js';
import { type DeliveryConfig, readDelivery } from './delivery/config.js';
import type { LogFiles } from './log-files.js';
import type { TypeSettings } from './media/optimized-types.js';
import type { TypeLimit } from './uploads/size-limits.js';
import { type Environment, environment } from './variables.js';

/** Values that are never printed, and that no program of the operator's gets. */
export const SECRETS = new Set([
  'JWT_SECRET',
  'DATABASE_URL',
  'REDIS_URL',
  'S3_SECRET_ACCESS_KEY',
  'METRICS_TOKEN',
  'HOOK_URL',
  'NATS_URL',
  'SENTRY_DSN',
]);

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
  /** Where clean files are delivered; undefined: nowhere. */
  delivery: DeliveryConfig | undefined;
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
  /** Set with AUTH=off: from where this server may be reached, where every request acts as the local account. */
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
  /** The virus scanner; undefined: a simulated one. */
  clamav: ClamavConfig | undefined;
  /** Bytes a second at which stored bytes are read back and checked; 0: they are not. */
  scrubRate: number;
  /** Days from the beginning of one check of all stored bytes to that of the next. */
  scrubIntervalDays: number;
  /** Bytes a second at which stored files are scanned again. */
  rescanRate: number;
  workerConcurrency: number;
  /** Jobs that all workers together run at a time; undefined: no limit. */
  globalConcurrency: number | undefined;
  jobAttempts: number;
  /** Delay before the second attempt; doubled for each further one. */
  jobBackoffMs: number;
  /** The types whose images are optimised without being asked for, and how. */
  optimize: readonly TypeSettings[];
  maxImagePixels: number;
  parserTimeoutSeconds: number;
  /** Bytes of resident memory that one parser process may use. */
  parserMemory: number;
  /** The operator's own steps: a YAML file, and a folder of modules; see docs/steps.md. */
  stepsFile: string | undefined;
  stepsDir: string | undefined;
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
  /** Where unexpected errors are reported; undefined: nowhere. */
  sentryDsn: string | undefined;
  /** Undefined: logs go to stdout. */
  logFiles: LogFiles | undefined;
  /** Milliseconds for which a client waits for the server, from which on a request is logged as a slow one; 0: none is. */
  slowRequestMs: number;
}

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
  const s3 = readS3(e);
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
    s3,
    delivery: readDelivery(e, env, s3),
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
    clamav: readClamav(e),
    rescanRate: e.RESCAN_RATE,
    scrubRate: e.SCRUB_RATE,
    scrubIntervalDays: e.SCRUB_INTERVAL_DAYS,
    workerConcurrency: e.WORKER_CONCURRENCY ?? defaultConcurrency(),
    globalConcurrency: e.WORKER_GLOBAL_CONCURRENCY || undefined,
    jobAttempts: e.JOB_ATTEMPTS,
    jobBackoffMs: e.JOB_BACKOFF_MS,
    optimize: e.OPTIMIZE,
    maxImagePixels: e.MAX_IMAGE_PIXELS,
    parserTimeoutSeconds: e.PARSER_TIMEOUT_SECONDS,
    parserMemory: e.PARSER_MEMORY,
    stepsFile: e.STEPS_FILE && resolve(e.STEPS_FILE),
    stepsDir: e.STEPS_DIR && resolve(e.STEPS_DIR),
    webhookRetrySeconds: e.WEBHOOK_RETRY_SECONDS,
    webhookAllowPrivate: e.WEBHOOK_ALLOW_PRIVATE,
    instanceId: e.INSTANCE_ID,
    logLevel: e.LOG_LEVEL,
    otlpEndpoint: e.OTEL_EXPORTER_OTLP_ENDPOINT,
    sentryDsn: e.SENTRY_DSN,
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

/** Returns the variables that server and worker require; only the supervisor may omit them. @throws {ConfigError} */
export function requireConnected(config: Config): { databaseUrl: string; jwtSecret: string } {
  if (!config.databaseUrl || !config.jwtSecret) {
    throw new ConfigError(
      'DATABASE_URL and JWT_SECRET are required here; `npm start` provides both by itself',
    );
  }
  return { databaseUrl: config.databaseUrl, jwtSecret: config.jwtSecret };
}

/** Two files for each core, because a file waits for the store now and then; not too many for the memory of the machine. */
function defaultConcurrency(): number {
  return Math.min(2 * Math.max(1, availableParallelism()), 16);
}
