import { isIP } from 'node:net';
import { z } from 'zod';
import { HOOK_TYPES, type HookType } from './hooks/question.js';
import { MEDIA_RANGE } from './media/media-types.js';
import { parseTypeSettings } from './media/optimized-types.js';
import { parseNatsAddress } from './nats-address.js';
import type { ClamdAddress } from './scanning/clamd.js';

/*
 * The environment variables, each by itself: its allowed values and its default. config.ts checks how they combine.
 */

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

export const bytes = z
  .string()
  .regex(/^\d+ ?(B|KiB|MiB|GiB|TiB)?$/, 'must be a number of bytes, or a number with KiB, MiB, GiB or TiB')
  .transform((text) => {
    const [, number = '0', unit = ''] = /^(\d+) ?(\w*)$/.exec(text) ?? [];
    return Number(number) * (UNITS[unit] ?? 1);
  });

const sizeOfUpload = bytes.refine(
  (n) => n > 0 && n <= LARGEST_UPLOAD,
  'must be more than 0 and at most 5 TiB',
);

/** `image/*=50MiB, application/pdf=1GiB`: bytes by type. */
const bytesByType = z.string().transform((text, context) => {
  const limits = text.split(',').map((one) => {
    const [type = '', size = '', ...more] = one.split('=').map((part) => part.trim());
    return { type: type.toLowerCase(), size: sizeOfUpload.safeParse(size), isPair: more.length === 0 };
  });
  const types = limits.map(({ type }) => type);
  const areTypes = types.every((type) => MEDIA_RANGE.test(type)) && new Set(types).size === types.length;
  if (!areTypes || limits.some(({ isPair, size }) => !isPair || !size.success)) {
    context.addIssue(
      'must be types with sizes of at most 5 TiB, such as image/*=50MiB,video/mp4=5GiB, each type once',
    );
    return z.NEVER;
  }
  return limits.map(({ type, size }) => ({ type, maxSize: size.data ?? 0 }));
});

const optimize = z.string().transform((text, context) => {
  try {
    return parseTypeSettings(text);
  } catch (error) {
    context.addIssue((error as Error).message);
    return z.NEVER;
  }
});

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`);

/** `5,30,120`: delays, in seconds. */
const delays = z
  .string()
  .regex(
    /^[1-9]\d{0,5}(,[1-9]\d{0,5}){0,49}$/,
    'must be 1 to 50 delays in seconds, such as 5,30,120, each less than 1000000',
  )
  .transform((text) => text.split(',').map(Number));

const boolean = z.enum(['true', 'false'], 'must be true or false').transform((text) => text === 'true');

/** In milliseconds. */
const WINDOWS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000 };

/** A timer of more than 24 days would fire at once, and a client that must wait longer than a day is locked out. */
const LONGEST_WINDOW = 86_400_000;

/** `100`: per usual window; `100/5m`: per 5 minutes; `0`: no limit. @param usual window in milliseconds */
const rate = (usual: number, limit: number) =>
  z
    .string()
    .regex(
      /^\d{1,9}(\/\d{1,4}[smh])?$/,
      'must be a number of requests, such as 100, or 100/5m; 0 for no limit',
    )
    // Not at the end of the chain: there the default would replace undefined, which means no limit.
    .default(String(limit))
    .transform((text) => {
      const [, requests, number, unit = ''] = /^(\d+)(?:\/(\d+)([smh]))?$/.exec(text) ?? [];
      const windowMs = number ? Number(number) * (WINDOWS[unit] ?? 0) : usual;
      return { limit: Number(requests), windowMs };
    })
    .refine(
      ({ windowMs }) => windowMs >= 1000 && windowMs <= LONGEST_WINDOW,
      'must have a window of 1s to 24h',
    )
    .transform((value) => (value.limit === 0 ? undefined : value));

const natsAddress = z.string().transform((text, context) => {
  const address = parseNatsAddress(text);
  if (address) return address;
  context.addIssue(
    'must look like nats://user:password@host:4222, nats://token@host or tls://…; several servers of one cluster ' +
      'are separated by commas',
  );
  return z.NEVER;
});

const exactUrl = z.url({ protocol: /^https?$/, error: 'must be an http or https address' });

/** An address to which paths are appended, so without slashes at its end. */
const httpUrl = exactUrl.transform((url) => url.replace(/\/+$/, ''));

/** Longer patterns would be mistakes; together they are compared with each request. */
const LONGEST_PATTERN = 200;
const MOST_PATTERNS = 1000;

/** `curl, bad*bot`: parts of User-Agent headers. */
const userAgents = z
  .string()
  .transform((text) => text.split(',').map((one) => one.trim()))
  .refine(
    (patterns) =>
      patterns.length <= MOST_PATTERNS &&
      patterns.every((one) => one.length <= LONGEST_PATTERN && /[^*\s]/.test(one) && /^\P{C}*$/u.test(one)),
    'must be parts of User-Agent headers, separated by commas, such as curl,bad*bot; * stands for any characters',
  );

const headerNames = z
  .string()
  .regex(
    /^\s*[\w!#$%&'*+.^`|~-]+(\s*,\s*[\w!#$%&'*+.^`|~-]+)*\s*$/,
    'must be names of headers, separated by commas',
  );

/** Headers of a request that are its own; sent on, they would garble the question to the hook. */
const OWN_HEADERS =
  /^(host|connection|keep-alive|content-.*|transfer-encoding|te|trailer|upgrade|expect|hook-.*)$/i;

const forwardedHeaders = headerNames
  .transform((text) => text.split(',').map((name) => name.trim()))
  .refine(
    (names) => !names.some((name) => OWN_HEADERS.test(name)),
    'must be headers such as Cookie or Authorization, and none that every request has for itself',
  );

/** The hooks that tusd sends without being told to. */
const USUAL_HOOKS: HookType[] = [
  'pre-create',
  'post-create',
  'post-receive',
  'post-finish',
  'post-terminate',
];

const hookEvents = z.string().transform((text, context): HookType[] => {
  const names = text.split(',').map((name) => name.trim());
  const known = HOOK_TYPES.filter((type) => names.includes(type));
  if (names.every((name) => known.some((type) => type === name))) return known;
  context.addIssue(`must be some of ${HOOK_TYPES.join(', ')}, separated by commas`);
  return z.NEVER;
});

/** Where clamd listens: `host`, `host:3310`, `[::1]:3310`, or the path of its socket. */
const clamdAddress = z.string().transform((text, context): ClamdAddress => {
  if (text.startsWith('/')) return { path: text };
  const [, v6, name, port = '3310'] = /^(?:\[([\da-fA-F:]+)\]|([\w.-]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = v6 ?? name;
  if (host && Number(port) > 0 && Number(port) <= 65_535) return { host, port: Number(port) };
  context.addIssue('must look like localhost:3310, or be the path of a socket such as /run/clamav/clamd.ctl');
  return z.NEVER;
});

/** Every variable that is read. */
export const environment = z.object({
  HOST: z.string().min(1).optional(),
  PORT: integer(0, 65_535).default(3000),
  PUBLIC_URL: httpUrl.optional(),
  TLS_CERT_FILE: z.string().min(1).optional(),
  TLS_KEY_FILE: z.string().min(1).optional(),
  DENY_USER_AGENTS: userAgents.default([]),
  TRUST_PROXY: z
    .string()
    .refine(
      isTrustProxy,
      'must be true, false, a number of hops, or addresses and subnets such as 10.0.0.0/8',
    )
    .transform(parseTrustProxy)
    .default(false),
  CORS_ORIGINS: z.string().default('*'),
  CORS_HEADERS: headerNames.optional(),
  DATA_DIR: z.string().min(1).default('./data'),
  DATA_DIR_SHARED: boolean.default(false),
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/, error: 'must look like postgres://user:password@host:5432/database' })
    .optional(),
  // At least 2: code inside a transaction may need a second connection.
  DATABASE_POOL_SIZE: integer(2, 1000).default(10),
  REDIS_URL: z
    .url({ protocol: /^rediss?$/, error: 'must look like redis://user:password@host:6379/0' })
    .optional(),
  NATS_URL: natsAddress.optional(),
  NATS_CREDS_FILE: z.string().min(1).optional(),
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
  DELIVER_TO: z.string().min(1).optional(),
  DELIVER_DESTINATIONS: z.string().min(1).optional(),
  AUTH: z.enum(['on', 'off', 'hook'], 'must be on, off or hook').default('on'),
  AUTH_OFF_ANYWHERE: boolean.default(false),
  JWT_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
  ACCESS_TOKEN_MINUTES: integer(1, 1440).default(15),
  JWT_JWKS_URL: exactUrl.optional(),
  JWT_PUBLIC_KEY: z.string().optional(),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).optional(),
  HOOK_URL: exactUrl.optional(),
  HOOK_EVENTS: hookEvents.default(USUAL_HOOKS),
  HOOK_FORWARD_HEADERS: forwardedHeaders.default([]),
  HOOK_TIMEOUT_SECONDS: integer(1, 60).default(15),
  HOOK_ATTEMPTS: integer(1, 20).default(3),
  HOOK_BACKOFF_MS: integer(0, 60_000).default(1000),
  HOOK_ABSENT: z.enum(['refuse', 'allow'], 'must be refuse or allow').default('refuse'),
  HOOK_PROGRESS_SECONDS: integer(1, 3600).default(1),
  REGISTRATION: z.enum(['open', 'invite', 'closed'], 'must be open, invite or closed').default('open'),
  QUOTA_BYTES: bytes.refine((n) => n <= Number.MAX_SAFE_INTEGER, 'must be at most 8191 TiB').default(0),
  QUOTA_FILES: integer(0, 2 ** 31).default(0),
  RATE_LIMIT_UPLOADS: rate(60_000, 1000),
  RATE_LIMIT_STATUS: rate(60_000, 3000),
  RATE_LIMIT_DOWNLOADS: rate(60_000, 3000),
  RATE_LIMIT_PROCESSING: rate(60_000, 300),
  RATE_LIMIT_AUTH: rate(15 * 60_000, 30),
  RATE_LIMIT_GLOBAL: rate(60_000, 10_000),
  MAX_UPLOAD_SIZE: sizeOfUpload.default(LARGEST_UPLOAD),
  MAX_UPLOAD_SIZE_BY_TYPE: bytesByType.default([]),
  UPLOAD_EXPIRY_HOURS: integer(1, 8760).default(24),
  TRASH_DAYS: integer(0, 36_500).default(30),
  FILE_RETENTION_HOURS: integer(0, 876_000).default(0),
  UPLOAD_MEMORY_BUDGET: bytes
    // A smaller budget leaves no room for several parts in flight.
    .refine((n) => n >= 32 * 1024 ** 2, 'must be at least 32 MiB')
    .default(48 * 1024 ** 2),
  UPLOAD_SPOOL_BUDGET: bytes.default(4 * 1024 ** 3),
  DISK_RESERVE: bytes.optional(),
  // libuv reads this variable before any of our code runs. We read it to know its value.
  UV_THREADPOOL_SIZE: integer(1, 1024).default(4),
  HEALTH_PORT: integer(0, 65_535).optional(),
  METRICS_PORT: integer(0, 65_535).optional(),
  METRICS_TOKEN: z
    .string()
    .regex(/^[\w.~+/=-]{16,}$/, 'must be at least 16 letters, digits and . ~ + / = _ -')
    .optional(),
  CLAMAV_HOST: clamdAddress.optional(),
  CLAMAV_TIMEOUT_SECONDS: integer(1, 86_400).default(300),
  CLAMAV_MAX_SIZE: bytes.default(0),
  CLAMAV_OVERSIZE: z.enum(['fail', 'allow'], 'must be fail or allow').default('fail'),
  CLAMAV_RESCAN: z.enum(['on', 'off'], 'must be on or off').default('off'),
  RESCAN_RATE: bytes.refine((n) => n >= 1024, 'must be at least 1 KiB').default(10 * 1024 ** 2),
  SCRUB_RATE: bytes.refine((n) => n === 0 || n >= 1024, 'must be 0 or at least 1 KiB').default(0),
  SCRUB_INTERVAL_DAYS: integer(0, 3650).default(30),
  WORKER_CONCURRENCY: integer(1, 64).optional(),
  WORKER_GLOBAL_CONCURRENCY: integer(0, 10_000).default(0),
  JOB_ATTEMPTS: integer(1, 50).default(8),
  JOB_BACKOFF_MS: integer(10, 3_600_000).default(2000),
  OPTIMIZE: optimize.default([]),
  MAX_IMAGE_PIXELS: integer(1, 2 ** 31).default(100_000_000),
  PARSER_TIMEOUT_SECONDS: integer(1, 3600).default(60),
  PARSER_MEMORY: bytes
    // A parser process takes about 60 MiB when it has just started.
    .refine((n) => n >= 128 * 1024 ** 2, 'must be at least 128 MiB')
    .default(1024 ** 3),
  STEPS_FILE: z.string().min(1).optional(),
  STEPS_DIR: z.string().min(1).optional(),
  WEBHOOK_RETRY_SECONDS: delays.default([5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000]),
  WEBHOOK_ALLOW_PRIVATE: boolean.default(false),
  INSTANCE_ID: z
    .string()
    .regex(/^[\w.:-]{1,100}$/, 'must be letters, digits and . : - _')
    .optional(),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
  OTEL_EXPORTER_OTLP_ENDPOINT: httpUrl.optional(),
  SENTRY_DSN: z
    .string()
    .regex(/^https?:\/\/[\w-]+@[\w.[\]:-]+(\/[\w.-]+)+\/?$/, 'must look like https://key@host/project')
    .optional(),
  LOG_DIR: z.string().min(1).optional(),
  LOG_FILE_SIZE: bytes
    // A smaller file would hold no more than one write.
    .refine((n) => n >= 100 * 1024 && n <= 2 ** 40, 'must be at least 100 KiB and at most 1 TiB')
    .default(20 * 1024 ** 2),
  LOG_FILES: integer(1, 1000).default(10),
  SLOW_REQUEST_MS: integer(0, 3_600_000).default(5000),
});

export type Environment = z.infer<typeof environment>;

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
function parseTrustProxy(text: string): boolean | number | string {
  if (text === 'false') return false;
  if (text === 'true') return true;
  return /^\d+$/.test(text) ? Number(text) : text;
}
