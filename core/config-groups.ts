import { createPublicKey, type KeyObject } from 'node:crypto';
import { resolve } from 'node:path';
import { ConfigError } from './config-error.js';
import type { HookType } from './hooks/question.js';
import { isLoopback } from './loopback.js';
import type { NatsAddress } from './nats-address.js';
import type { ClamdConfig } from './scanning/clamd.js';
import type { Environment } from './variables.js';

/* Parts of the configuration in which variables require or exclude each other. */

/** Variables that need S3_BUCKET. Setting one without it is a mistake: the operator means to use S3. */
const S3_NEEDS_BUCKET = [
  'S3_ENDPOINT',
  'S3_ACCESS_KEY_ID',
  'S3_SECRET_ACCESS_KEY',
  'S3_PUBLIC_ENDPOINT',
] as const;

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

/** How files are scanned with clamd. */
export interface ClamavConfig extends ClamdConfig {
  /** What becomes of a file that is too large for clamd. */
  oversize: 'fail' | 'allow';
  /** Whether new signatures cause a scan of all files that were scanned with older ones. */
  rescan: boolean;
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

/** @throws {ConfigError} when one variable requires or excludes another */
export function readS3(e: Environment): S3Config | undefined {
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
export function readTlsFiles(e: Environment): TlsFiles | undefined {
  if ((e.TLS_CERT_FILE === undefined) !== (e.TLS_KEY_FILE === undefined)) {
    throw new ConfigError('TLS_CERT_FILE and TLS_KEY_FILE go together: set both or neither');
  }
  return e.TLS_CERT_FILE && e.TLS_KEY_FILE
    ? { certFile: resolve(e.TLS_CERT_FILE), keyFile: resolve(e.TLS_KEY_FILE) }
    : undefined;
}

/** @throws {ConfigError} when one variable requires or excludes another */
export function readNats(e: Environment): NatsConfig | undefined {
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

export function readClamav(e: Environment): ClamavConfig | undefined {
  return (
    e.CLAMAV_HOST && {
      address: e.CLAMAV_HOST,
      timeoutMs: e.CLAMAV_TIMEOUT_SECONDS * 1000,
      maxSize: e.CLAMAV_MAX_SIZE || Number.POSITIVE_INFINITY,
      oversize: e.CLAMAV_OVERSIZE,
      rescan: e.CLAMAV_RESCAN === 'on',
    }
  );
}

/** @throws {ConfigError} when one variable requires another */
export function readHook(e: Environment): HookConfig | undefined {
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
export function readAuthOff(e: Environment, host: string): AuthOff | undefined {
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
export function readIdentityProvider(e: Environment): IdentityProvider | undefined {
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
