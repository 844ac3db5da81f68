import { createHmac, type KeyObject } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import { type RateLimitInfo, rateLimit, type Store } from 'express-rate-limit';
import type { Rate, RateLimits } from '../../core/config.js';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import type { Metrics } from '../../core/metrics/metrics.js';
import type { Refusals } from '../auth/refusals.js';
import { networkOf } from '../http/network.js';
import { createMemoryStore, type SharedCounts } from './counts.js';

/*
 * Rate limits. A caller that exceeds one learns when to come back (429, Retry-After); every answer tells how
 * much is left (RateLimit, RateLimit-Policy: draft-ietf-httpapi-ratelimit-headers-08).
 *
 * Attempts to sign in, to register and to change a password are counted twice. Every attempt counts against
 * its address, even a successful one: it costs a password hash, which is expensive on purpose, and it may
 * create an account or a session. Only failed attempts count against the account: a user who knows the
 * password is not guessing, and using it must not lock that user out. A success does not reset the count
 * either, because it would give new guesses to an attacker.
 *
 * While an account is at its limit, the right password is refused as well, without being checked; otherwise
 * the limit would be useless. So an attacker who sends enough wrong passwords can keep the owner from signing
 * in until the window ends; refused attempts do not extend the window. We accept that, because it makes
 * guessing from many addresses slow. It ends no session: refreshing a session is not counted here, and API
 * keys and tokens of an identity provider keep working.
 */

/** The kinds of requests that are counted separately. */
export type Bucket = Exclude<keyof RateLimits, 'global'>;

export interface Limits {
  /** For all requests, by address. Runs before authentication. */
  global: RequestHandler;
  /**
   * For one kind of request: by user or upload token, or by address if nobody is signed in. Runs after
   * authentication, once for each action of this kind in the request.
   */
  bucket(name: Bucket): RequestHandler;
  close(): Promise<void>;
}

interface LimitDeps {
  rateLimits: RateLimits;
  /** Undefined: this server keeps its own counts. */
  shared?: SharedCounts | undefined;
  /** Hides e-mail addresses in the keys of the counts. */
  accountKey: KeyObject;
  refusals: Refusals;
  metrics?: Pick<Metrics, 'rateLimited'> | undefined;
  log: Logger;
}

interface Counting {
  /** Undefined: there is no limit. */
  rate: Rate | undefined;
  /** The key to count against; undefined: this request is not counted. */
  keyOf(req: Request): string | undefined;
  /** Whether a request with this status of the answer is taken off the count again. */
  isFree?(status: number): boolean;
  /** Called for the first refused request of a window. */
  onFirstRefusal?(req: Request): void;
}

/** Creates the limit called `name`. */
type Limit = (name: string, counting: Counting) => RequestHandler;

/**
 * Counts a request in one of the limits while it is being handled, for example for one more of its actions.
 * @throws {AppError} rate_limited
 */
export function countIn(limit: RequestHandler, req: Request, res: Response): Promise<void> {
  return new Promise((resolve, reject) => {
    limit(req, res, (error?: unknown) => (error ? reject(error) : resolve()));
  });
}

/** For the detail of a refusal: "10 … in 60 s". */
const COUNTED: Record<string, string> = {
  uploads: 'new uploads',
  status: 'questions',
  downloads: 'downloads',
  processing: 'changes',
  auth: 'attempts from this address',
  'auth-account': 'failed attempts for this account',
  global: 'requests from this address',
};

const pass: RequestHandler = (_req, _res, next) => next();

/** Creates the rate limits of this server. An undefined rate limits nothing. */
export function createLimits({ rateLimits, shared, accountKey, refusals, metrics, log }: LimitDeps): Limits {
  const stores: Store[] = [];
  const warnOfProxy = createProxyWarning(log);

  const limit: Limit = (name, counting) => {
    const { rate } = counting;
    if (!rate) return pass;
    // The name contains the window: after a window was shortened, nobody waits for the end of the longer one.
    const store = shared?.createStore(`${name}:${rate.windowMs / 1000}`) ?? createMemoryStore();
    stores.push(store);
    return createLimit(name, { ...counting, rate }, { store, warnOfProxy, metrics, log });
  };
  const byCaller = (name: Bucket) => limit(name, { rate: rateLimits[name], keyOf: callerOf });

  const buckets: Record<Bucket, RequestHandler> = {
    uploads: byCaller('uploads'),
    status: byCaller('status'),
    downloads: byCaller('downloads'),
    processing: byCaller('processing'),
    auth: limitAttempts(limit, rateLimits.auth, accountKey, refusals),
  };
  return {
    global: limit('global', { rate: rateLimits.global, keyOf: addressOf }),
    bucket: (name) => buckets[name],
    async close() {
      for (const store of stores) store.shutdown?.();
      shared?.close();
    },
  };
}

/** Limits attempts to sign in, to register and to change a password: by address, failures also by account. */
function limitAttempts(
  limit: Limit,
  rate: Rate | undefined,
  accountKey: KeyObject,
  refusals: Refusals,
): RequestHandler {
  const onFirstRefusal = (req: Request) => refusals.note(req, { action: 'auth', code: 'rate_limited' });
  const byAddress = limit('auth', {
    rate,
    keyOf: addressOf,
    // An error of the server is not the client's fault.
    isFree: (status) => status >= 500,
    onFirstRefusal,
  });
  const byAccount = limit('auth-account', {
    rate,
    keyOf: (req) => accountOf(req, accountKey),
    // 401 is a wrong guess, 409 reveals an account, and 429 stays counted for the check of `used` below.
    isFree: (status) => ![401, 409, 429].includes(status),
    onFirstRefusal,
  });
  // The address comes first: a refused address can do no more harm to accounts.
  return (req, res, next) =>
    byAddress(req, res, (error) => (error ? next(error) : byAccount(req, res, next)));
}

/** Creates the handler that counts one kind of request in `store` and refuses requests beyond the limit. */
function createLimit(
  name: string,
  { rate, keyOf, isFree, onFirstRefusal }: Counting & { rate: Rate },
  {
    store,
    warnOfProxy,
    metrics,
    log,
  }: Pick<LimitDeps, 'metrics' | 'log'> & { store: Store; warnOfProxy(req: Request): void },
): RequestHandler {
  const count = rateLimit({
    identifier: name,
    limit: rate.limit,
    windowMs: rate.windowMs,
    store,
    keyGenerator: (req) => keyOf(req) ?? '',
    skip: (req) => keyOf(req) === undefined,
    skipSuccessfulRequests: isFree !== undefined,
    requestWasSuccessful: (_req, res) => isFree?.(res.statusCode) ?? false,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    handler(req, res, next) {
      const { used, resetTime, key } = (req as Request & { rateLimit: RateLimitInfo }).rateLimit;
      // Each refused request raises the count, in Redis too, so exactly one request sees this number.
      if (used === rate.limit + 1) onFirstRefusal?.(req);
      if (key.startsWith('address:')) warnOfProxy(req);
      metrics?.rateLimited(name);
      next(tooMany(name, rate, resetTime, res));
    },
    // The library's checks write to stdout. This configuration and the tests cover what they check.
    validate: false,
    passOnStoreError: true,
    logger: {
      warn: (error) => log.warn({ err: error }, 'rate limits'),
      error: (error) => log.error({ err: error }, 'rate limits'),
    },
  });
  return (req, res, next) => {
    forgetLeft(name, res);
    return count(req, res, next);
  };
}

/** A request may be counted several times. Its answer reports the state of a limit after the last count. */
function forgetLeft(name: string, res: Response): void {
  for (const header of ['RateLimit', 'RateLimit-Policy']) {
    const items = [res.getHeader(header) ?? []].flat().map(String);
    const others = items.filter((item) => !item.startsWith(`"${name}";`));
    if (others.length < items.length) res.setHeader(header, others);
  }
}

/** Warns once. Without a trusted proxy in the settings, all clients behind a proxy share one count. */
function createProxyWarning(log: Logger): (req: Request) => void {
  let warned = false;
  return (req) => {
    if (warned || req.app.get('trust proxy') !== false || !req.get('X-Forwarded-For')) return;
    warned = true;
    log.warn(
      'refused by address, of a request with X-Forwarded-For: if it came through a proxy, set TRUST_PROXY',
    );
  };
}

/** The account whose password is tried or changed. Runs before the body is checked. */
function accountOf(req: Request, accountKey: KeyObject): string | undefined {
  if (req.principal) return `user:${req.principal.userId}`;
  const email: unknown = req.body?.email;
  if (typeof email !== 'string') return undefined;
  const hash = createHmac('sha256', accountKey).update(email.toLowerCase()).digest('base64url');
  return `account:${hash}`;
}

/** The upload token, else the user, else the address if nobody is signed in. */
function callerOf(req: Request): string {
  const { principal } = req;
  if (!principal) return addressOf(req);
  return principal.uploadToken ? `token:${principal.uploadToken.id}` : `user:${principal.userId}`;
}

function addressOf(req: Request): string {
  return `address:${networkOf(req.ip)}`;
}

/** The error for a request beyond the limit. Sets Retry-After. */
function tooMany(name: string, rate: Rate, resetTime: Date | undefined, res: Response): AppError {
  const leftMs = resetTime ? resetTime.getTime() - Date.now() : rate.windowMs;
  const seconds = Math.max(1, Math.ceil(leftMs / 1000));
  res.setHeader('Retry-After', seconds);
  const reached = `${rate.limit} ${COUNTED[name]} in ${rate.windowMs / 1000} s`;
  return new AppError('rate_limited', {
    detail: `At most ${reached}: try again in ${seconds} s`,
    retryable: true,
  });
}
