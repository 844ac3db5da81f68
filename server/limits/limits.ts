import { createHmac, type KeyObject } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import { type RateLimitInfo, rateLimit, type Store } from 'express-rate-limit';
import type { Rate, RateLimits } from '../../core/config.js';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import type { Refusals } from '../auth/refusals.js';
import { networkOf } from '../http/network.js';
import { createMemoryStore, type SharedCounts } from './counts.js';

/*
 * How often somebody may ask for something. Whoever asks too often is told when to come back (429, Retry-After), and
 * everybody how much is left (RateLimit, RateLimit-Policy: draft-ietf-httpapi-ratelimit-headers-08).
 *
 * Attempts to sign in, to register and to change a password are counted twice. By address each of them counts, those
 * that succeed too: each costs the hash of a password, which is dear on purpose, and may leave an account or a session.
 * By account only those that fail count: who knows the password is no guesser, and does not shut himself out by using
 * it. But neither does his success wipe out what others have tried meanwhile: they would get new guesses with it.
 *
 * While an account is at its limit the right password is refused as well, unread: else the limit would be none. So
 * who sends enough wrong ones can keep its owner from signing in, until the window ends; refused attempts do not make
 * it longer. That is taken in return for guesses from many addresses being slow. It ends no session: who is signed in
 * stays so, because refreshing a session is not counted here, and API keys and tokens of an identity provider go on.
 */

/** What is counted apart. */
export type Bucket = Exclude<keyof RateLimits, 'global'>;

export interface Limits {
  /** For everything, by address. Runs before anything is known of the caller. */
  global: RequestHandler;
  /**
   * For one kind of request, by user, or by address where nobody is signed in. Runs after authentication; for a request
   * that does several such things, once for each.
   */
  bucket(name: Bucket): RequestHandler;
  close(): Promise<void>;
}

interface LimitDeps {
  rateLimits: RateLimits;
  /** Undefined: this server counts for itself. */
  shared?: SharedCounts | undefined;
  /** Makes names of accounts unreadable where they are counted. */
  accountKey: KeyObject;
  refusals: Refusals;
  log: Logger;
}

interface Counting {
  /** Undefined: nothing is limited. */
  rate: Rate | undefined;
  /** Who is counted; undefined: this request is not. */
  keyOf(req: Request): string | undefined;
  /** Whether an answer with this status is taken off the count again. */
  isFree?(status: number): boolean;
  /** Called for the first request in a window that is refused. */
  onFirstRefusal?(req: Request): void;
}

/** Makes the limit that is called `name`. */
type Limit = (name: string, counting: Counting) => RequestHandler;

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

/** Makes what counts the requests that come to this server. A rate that is undefined limits nothing. */
export function createLimits({ rateLimits, shared, accountKey, refusals, log }: LimitDeps): Limits {
  const stores: Store[] = [];
  const warnOfProxy = createProxyWarning(log);

  const limit: Limit = (name, counting) => {
    const { rate } = counting;
    if (!rate) return pass;
    // With the window in the name nobody waits for the end of one that has been made shorter.
    const store = shared?.createStore(`${name}:${rate.windowMs / 1000}`) ?? createMemoryStore();
    stores.push(store);
    return createLimit(name, { ...counting, rate }, { store, warnOfProxy, log });
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

/** Attempts to sign in, to register and to change a password: by address, and those that fail by account. */
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
    // Our own trouble is not the client's.
    isFree: (status) => status >= 500,
    onFirstRefusal,
  });
  const byAccount = limit('auth-account', {
    rate,
    keyOf: (req) => accountOf(req, accountKey),
    // A guess was made, or an address was found to have an account. What is refused here stays counted: see `used`.
    isFree: (status) => ![401, 409, 429].includes(status),
    onFirstRefusal,
  });
  // In this order: an address that is refused can do no more harm to accounts.
  return (req, res, next) =>
    byAddress(req, res, (error) => (error ? next(error) : byAccount(req, res, next)));
}

/** What counts one kind of request in `store`, and refuses those that are too many. */
function createLimit(
  name: string,
  { rate, keyOf, isFree, onFirstRefusal }: Counting & { rate: Rate },
  { store, warnOfProxy, log }: { store: Store; warnOfProxy(req: Request): void; log: Logger },
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
      // Each further one raises the count, also in Redis: of all servers one sees this number, and once.
      if (used === rate.limit + 1) onFirstRefusal?.(req);
      if (key.startsWith('address:')) warnOfProxy(req);
      next(tooMany(name, rate, resetTime, res));
    },
    // They write to stdout what they find in the first request. What they look for is settled here and in the tests.
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

/** A request may be counted several times: what its answer tells of a limit is how it is after the last time. */
function forgetLeft(name: string, res: Response): void {
  for (const header of ['RateLimit', 'RateLimit-Policy']) {
    const items = [res.getHeader(header) ?? []].flat().map(String);
    const others = items.filter((item) => !item.startsWith(`"${name}";`));
    if (others.length < items.length) res.setHeader(header, others);
  }
}

/** Warns once. Else all who come through a proxy wait for each other, and nobody finds out why. */
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

/** Whose password is tried or changed. Runs before the body is checked. */
function accountOf(req: Request, accountKey: KeyObject): string | undefined {
  if (req.principal) return `user:${req.principal.userId}`;
  const email: unknown = req.body?.email;
  if (typeof email !== 'string') return undefined;
  const hash = createHmac('sha256', accountKey).update(email.toLowerCase()).digest('base64url');
  return `account:${hash}`;
}

/** The user; of those who come with an upload token each for itself; the address where nobody is signed in. */
function callerOf(req: Request): string {
  const { principal } = req;
  if (!principal) return addressOf(req);
  return principal.uploadToken ? `token:${principal.uploadToken.id}` : `user:${principal.userId}`;
}

function addressOf(req: Request): string {
  return `address:${networkOf(req.ip)}`;
}

/** Says in the answer when to come back. */
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
