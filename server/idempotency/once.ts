import { createHash } from 'node:crypto';
import type { Request, Response } from 'express';
import type { DataSource } from 'typeorm';
import { isDatabaseAway } from '../../core/database/outage.js';
import { AppError, type ErrorCode } from '../../core/errors.js';
import {
  claimKey,
  type EarlierRequest,
  type KeyedRequest,
  keepAnswer,
  releaseKey,
} from '../../core/keyed-requests.js';
import type { Logger } from '../../core/log.js';
import { seal, unseal } from '../../core/seal.js';
import type { Keys } from '../auth/keys.js';
import type { Principal } from '../auth/principal.js';
import { toAppError } from '../http/problem.js';
import { parseString } from '../ietf/fields.js';

/*
 * Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a client that got no answer repeats its request with the
 * same key, and gets the answer of the first request. Whatever happens, the server does not carry out a request twice
 * without saying so: it notes the key before it carries the request out. If its process dies before the answer is stored,
 * or the database is away then, a repetition is told that the outcome is not known.
 */

/** The request header, and the header of an answer that was given before. */
export const IDEMPOTENCY_KEY = 'Idempotency-Key';
export const REPLAYED = 'Idempotency-Replayed';

export const MAX_KEY_LENGTH = 255;

/** The problems of requests that have a key. */
export const KEY_PROBLEMS = ['key_in_use', 'outcome_unknown', 'key_reused'] as const;

/** When a client may ask again for the answer of a request that is being handled. */
const RETRY_AFTER_SECONDS = 2;

/** Statuses below 500 that say nothing about the outcome: the same request may be answered otherwise later. */
const NOT_KEPT = [400, 401, 403, 408, 423, 429];

/** Headers that belong to an answer, besides its type. */
const KEPT_HEADERS = ['Cache-Control', 'Location'];

/** What a route answers when all goes well. */
export interface Answer {
  status: number;
  /** Undefined: the answer has no content. */
  json: string | undefined;
}

/** What is stored of an answer. */
type Kept = (Answer & { headers: Record<string, string> }) | { code: ErrorCode; detail: string | undefined };

/**
 * Carries out the work of a request, or answers as the first request with its Idempotency-Key was answered. A request without
 * a key is just carried out.
 * @throws {AppError} invalid_request, KEY_PROBLEMS; what `work` throws
 */
export type Once = (
  req: Request,
  res: Response,
  work: () => Promise<Answer | undefined>,
) => Promise<Answer | undefined>;

interface OnceDeps {
  database: DataSource;
  keys: Pick<Keys, 'keptAnswer'>;
  log: Logger;
}

export function createOnce({ database, keys, log }: OnceDeps): Once {
  async function keep(id: Buffer, kept: Kept): Promise<void> {
    await keepAnswer(database, id, seal(JSON.stringify(kept), id, keys.keptAnswer));
  }

  async function noteFailure(id: Buffer, thrown: unknown): Promise<void> {
    // A transaction may have been committed although its answer was lost: nobody knows the outcome.
    if (isDatabaseAway(thrown)) return;
    const { status, code, detail } = toAppError(thrown);
    if (status >= 500 || NOT_KEPT.includes(status)) await releaseKey(database, id);
    else await keep(id, { code, detail });
  }

  return async (req, res, work) => {
    const request = readRequest(req);
    if (!request) return work();
    const earlier = await claimKey(database, request);
    if (earlier) return repeat(res, keys, request, earlier);
    const { id } = request;
    // The client gets its answer also when it cannot be stored. A repetition then learns that the outcome is not known.
    const warn = (error: unknown) => log.warn({ err: error, requestId: req.id }, 'answer not kept');
    try {
      const answer = await work();
      if (answer) await keep(id, { ...answer, headers: headersOf(res) }).catch(warn);
      return answer;
    } catch (error) {
      await noteFailure(id, error).catch(warn);
      throw error;
    }
  };
}

/** @returns undefined if the request has no key. @throws {AppError} invalid_request */
function readRequest(req: Request): KeyedRequest | undefined {
  const field = req.get(IDEMPOTENCY_KEY);
  if (field === undefined) return undefined;
  const key = parseString(field);
  if (!key || key.length > MAX_KEY_LENGTH) {
    throw new AppError('invalid_request', {
      detail: `${IDEMPOTENCY_KEY}: must be a string in quotes, of 1 to ${MAX_KEY_LENGTH} characters of ASCII`,
    });
  }
  // Ids in a path may be written in either case.
  const params = Object.values(req.params).map((value) => String(value).toLowerCase());
  return {
    id: hash([callerOf(req.principal), req.method, req.route.path, params, key]),
    fingerprint: hash(req.body ?? null),
  };
}

/** Each credential has answers of its own, because another one of the same user may be allowed to see less. */
function callerOf(principal: Principal | undefined): string {
  if (!principal) throw new Error('a public route has no Idempotency-Key');
  const { userId, key, uploadToken } = principal;
  if (uploadToken) return `token:${uploadToken.id}`;
  return key ? `key:${key.id}` : `user:${userId}`;
}

function hash(value: unknown): Buffer {
  return createHash('sha256').update(JSON.stringify(value)).digest();
}

function headersOf(res: Response): Record<string, string> {
  const set = KEPT_HEADERS.filter((name) => res.hasHeader(name));
  return Object.fromEntries(set.map((name) => [name, String(res.getHeader(name))]));
}

/** Answers as the first request was answered. @throws {AppError} its problem, or one of KEY_PROBLEMS */
function repeat(
  res: Response,
  keys: OnceDeps['keys'],
  { id, fingerprint }: KeyedRequest,
  { fingerprint: first, answer, isRecent }: EarlierRequest,
): Answer {
  if (!fingerprint.equals(first)) {
    throw new AppError('key_reused', { detail: 'Send a new key with each new request' });
  }
  if (answer === null && isRecent) {
    res.setHeader('Retry-After', RETRY_AFTER_SECONDS);
    throw new AppError('key_in_use', {
      detail: 'Repeat the request later to get the answer of the first one',
    });
  }
  // After a change of JWT_SECRET an answer cannot be opened any more.
  const opened = answer && unseal(answer, id, keys.keptAnswer);
  if (!opened) {
    const detail = 'It was interrupted, or its answer is lost: look what it has done, and use a new key';
    throw new AppError('outcome_unknown', { detail });
  }
  const kept: Kept = JSON.parse(opened);
  res.setHeader(REPLAYED, 'true');
  if ('code' in kept) throw new AppError(kept.code, kept.detail === undefined ? {} : { detail: kept.detail });
  for (const [name, value] of Object.entries(kept.headers)) res.setHeader(name, value);
  return kept;
}
