import { Server } from '@tus/server';
import type { Request as ExpressRequest, Response as ExpressResponse, RequestHandler } from 'express';
import { validate as isUuid, v7 as uuidv7 } from 'uuid';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import { finishAndQueue } from '../../core/uploads/finish.js';
import type { Leases } from '../../core/uploads/lease.js';
import { getUpload } from '../../core/uploads/queries.js';
import { can, uploadAccessOf } from '../auth/can.js';
import { actorOf } from '../auth/principal.js';
import { noteIfRefused, type Refusals } from '../auth/refusals.js';
import { ALLOWED_ALWAYS } from '../http/cors.js';
import { originOf } from '../http/origin.js';
import { setErrorHeaders, toAppError } from '../http/problem.js';
import { describeUpload } from '../upload-metadata.js';
import type { TusLimits } from './limits.js';
import { EXPOSED_HEADERS, isOctets, OCTETS } from './preflight.js';
import { principalOf, requestOf, type TusRequest } from './request.js';
import { LedgerStore, type StoreDeps } from './store.js';

/*
 * tus 1.0 at /uploads: @tus/server speaks the protocol, the ledger keeps the truth.
 *
 * @tus/server asks its data store by upload id alone. What that needs to know besides (who asks, and under which lease)
 * is found by the id as long as a request has the lock: there is only one then. @tus/server is given the head of each
 * request only: bodies go from the socket to the ledger without its streams in between.
 */

export interface TusDeps extends StoreDeps {
  publicUrl: string | undefined;
  corsOrigins: '*' | string[];
  corsHeaders: string[];
  refusals: Refusals;
}

/** How long a request that was asked to let go may still write, in milliseconds. */
const DRAIN_MS = 500;

/**
 * The handler for `/uploads{/*path}`; expects `req.principal`, except for OPTIONS.
 * @throws {AppError} rate_limited (from what it returns) instead of saying too often that there is no such upload
 */
export function createTusHandler(deps: TusDeps, limits: Pick<TusLimits, 'countMiss'>): RequestHandler {
  /** By what @tus/server gets to see of them. */
  const requests = new WeakMap<Request, TusRequest>();
  /** By the keys of their uploads (see keyOf), while they have the lock of @tus/server. */
  const holders = new Map<string, TusRequest>();

  const server = new Server({
    path: '/uploads',
    datastore: new LedgerStore(deps, holders),
    locker: (head) => ({
      newLock: (key) => createLock(deps.leases, key, requestOf(requests, head), holders),
    }),
    maxSize: deps.maxUploadSize,
    namingFunction: () => uuidv7(),
    exposedHeaders: EXPOSED_HEADERS,
    allowedHeaders: [...ALLOWED_ALWAYS, ...deps.corsHeaders],
    generateUrl: (head, { path, id }) => `${requestOf(requests, head).origin}${path}/${id}`,
    getFileIdFromRequest: keyOf,
    ...(deps.corsOrigins === '*' ? {} : { allowedOrigins: originCheck(deps.corsOrigins) }),
    onUploadCreate: async (head) => {
      const request = requestOf(requests, head);
      request.description = describeUpload(request.req.get('Upload-Metadata'));
      return {};
    },
    onUploadFinish: async (head, upload) => {
      await finishAndQueue(deps, upload.id, actorOf(requestOf(requests, head).req));
      return {};
    },
    onResponseError: (head, error) => {
      const request = requestOf(requests, head);
      const quiet = request.gone.aborted;
      noteIfRefused(deps.refusals, request.req, error);
      return translateError(error, request, quiet ? undefined : deps.log);
    },
  });

  return async (req, res) => {
    const gone = new AbortController();
    res.once('close', () => {
      if (!res.writableFinished) gone.abort();
    });
    const asked = new AbortController();
    const request: TusRequest = {
      method: req.method,
      req,
      res,
      principal: req.principal,
      origin: originOf(req, deps.publicUrl),
      letGo: () => setTimeout(() => asked.abort(), DRAIN_MS).unref(),
      asked: asked.signal,
      gone: gone.signal,
    };
    const head = headOf(req);
    requests.set(head, request);
    const response = await server.handleWeb(head);
    if (response.status === 404) await noteForeign(deps, req);
    if (response.status === 404 || response.status === 410) await limits.countMiss(req, res);
    await deps.refusals.whenWritten(req);
    await answer(res, response);
  };
}

/** The id of the upload that a path is of. */
function idIn(path: string): string | undefined {
  const [, id] = /^\/uploads\/([^/]+)\/?$/.exec(path) ?? [];
  return id && isUuid(id) ? id.toLowerCase() : undefined;
}

const UUID_LENGTH = 36;

let looks = 0;

/**
 * What @tus/server calls the upload of a request when it asks the locker and the data store: its id. A HEAD mostly holds
 * no lease, so several may look at one upload at once, beside a PATCH: each HEAD calls it by a key of its own, which
 * begins with the id.
 */
function keyOf(req: Request): string | undefined {
  const id = idIn(new URL(req.url).pathname);
  return id && req.method === 'HEAD' ? `${id} ${++looks}` : id;
}

/** Somebody else's upload looks like none. For the event log it does make a difference. */
async function noteForeign({ database, refusals, log }: TusDeps, req: ExpressRequest): Promise<void> {
  const id = idIn(req.path);
  const { principal } = req;
  if (!id || !principal) return;
  try {
    const upload = await getUpload(database, id);
    if (!can(principal, 'upload', upload))
      refusals.note(req, { action: 'upload', code: 'not_found', subjectId: id });
  } catch (error) {
    if (!(error instanceof AppError)) log.warn({ err: error, requestId: req.id }, 'refusal not written down');
  }
}

/**
 * What of a request's headers is not for @tus/server: what a proxy says of itself is Express' business, which knows the
 * proxies to trust, and Upload-Metadata is read by upload-metadata.ts, which takes more.
 */
const NOT_FOR_TUS = /^((x-)?forwarded.*|upload-metadata)$/;

/** The request without its body. */
function headOf(req: ExpressRequest): Request {
  const headers = new Headers();
  for (const [name, value] of Object.entries(req.headers)) {
    if (typeof value === 'string' && !NOT_FOR_TUS.test(name)) headers.set(name, value);
  }
  // It compares letter by letter.
  if (isOctets(req)) headers.set('Content-Type', OCTETS);
  // Only the path matters; the target of a request may also be a whole address (RFC 9112, 3.2.2).
  return new Request(`http://localhost${req.path}`, { method: req.method, headers });
}

async function answer(res: ExpressResponse, response: Response): Promise<void> {
  const body = await response.text();
  if (res.destroyed) return;
  // Web answers have a type even where they have no content.
  if (body === '') response.headers.delete('Content-Type');
  res.status(response.status).setHeaders(response.headers);
  res.end(body);
}

function originCheck(allowed: string[]): (origin: string) => boolean {
  return (origin) => allowed.includes(origin);
}

/**
 * Answers for errors that @tus/server knows stay as they are; ours get their status; anything else says nothing.
 * @param log undefined: nobody is there to be told, and nothing is wrong
 */
function translateError(
  error: Error | { status_code: number; body: string },
  { method, res }: TusRequest,
  log: Logger | undefined,
): { status_code: number; body: string } | undefined {
  if (!(error instanceof AppError) && 'status_code' in error) return undefined;
  const known = toAppError(error);
  if (known.status >= 500) log?.error({ err: error }, 'tus request failed');
  setErrorHeaders(res, known);
  // Clients take a HEAD that fails for the loss of the upload and send all of it again, except after 423.
  const status = method === 'HEAD' && known.status >= 500 ? 423 : known.status;
  return { status_code: status, body: `${known.detail ?? known.title}\n` };
}

function createLock(leases: Leases, key: string, request: TusRequest, holders: Map<string, TusRequest>) {
  return {
    async lock(): Promise<void> {
      // A new upload gets its lease with its row, and nobody else knows its id yet.
      if (request.method !== 'POST') {
        const access = uploadAccessOf(principalOf(request));
        const get = request.method === 'HEAD' ? leases.look : leases.acquire;
        request.lease = await get(key.slice(0, UUID_LENGTH), access, request.gone, request.letGo);
      }
      holders.set(key, request);
    },
    async unlock(): Promise<void> {
      holders.delete(key);
      if (request.leavesLease) request.lease?.leave();
      else await request.lease?.release();
    },
  };
}
