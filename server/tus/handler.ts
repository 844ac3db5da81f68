import { Server } from '@tus/server';
import type { Request as ExpressRequest, Response as ExpressResponse, RequestHandler } from 'express';
import { validate as isUuid, v7 as uuidv7 } from 'uuid';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';
import { UploadRefused } from '../../core/uploads/hooks.js';
import type { Leases } from '../../core/uploads/lease.js';
import { getUpload } from '../../core/uploads/queries.js';
import { settle } from '../../core/uploads/settle.js';
import { can, uploadAccessOf } from '../auth/can.js';
import { actorOf } from '../auth/principal.js';
import { noteIfRefused, type Refusals } from '../auth/refusals.js';
import { ALLOWED_ALWAYS } from '../http/cors.js';
import { originOf } from '../http/origin.js';
import { setErrorHeaders, toAppError } from '../http/problem.js';
import { describeUpload } from '../upload-metadata.js';
import type { TusLimits } from './limits.js';
import { EXPOSED_HEADERS, isOctets, OCTETS } from './preflight.js';
import { leaseOf, principalOf, requestOf, type TusRequest } from './request.js';
import { LedgerStore, type StoreDeps } from './store.js';

/*
 * tus 1.0 at /uploads: @tus/server speaks the protocol, and the ledger holds the state.
 *
 * The data store gets only the name of an upload from @tus/server. It also needs the caller and the lease, so each
 * request has a name of its own, its key, by which the data store finds them. The head of each request is all that
 * @tus/server gets: bodies go from the socket to the ledger without passing through its streams.
 *
 * The lease is taken when @tus/server has read the head, and released when it has made its answer. Its own lock does
 * nothing: it would be unlocked before onUploadFinish is called.
 */

export interface TusDeps extends StoreDeps {
  publicUrl: string | undefined;
  corsOrigins: '*' | string[];
  corsHeaders: string[];
  refusals: Refusals;
}

/** How long a request that was asked to release its lease may still write, in milliseconds. */
const DRAIN_MS = 500;

/**
 * Creates the handler for `/uploads{/*path}`; it expects `req.principal`, except for OPTIONS.
 * @throws {AppError} rate_limited (from the handler) when too many requests name no existing upload
 */
export function createTusHandler(deps: TusDeps, limits: Pick<TusLimits, 'countMiss'>): RequestHandler {
  /** Requests that are being handled, by the head that @tus/server receives, and by their keys. */
  const byHead = new WeakMap<Request, TusRequest>();
  const byKey = new Map<string, TusRequest>();

  const server = new Server({
    path: '/uploads',
    datastore: new LedgerStore(deps, byKey),
    locker: { newLock: () => ({ lock: async () => {}, unlock: async () => {} }) },
    maxSize: deps.maxUploadSize,
    namingFunction: (head) => requestOf(byHead, head).key,
    getFileIdFromRequest: (head) => idIn(new URL(head.url).pathname) && requestOf(byHead, head).key,
    onIncomingRequest: (head) => takeLease(deps.leases, requestOf(byHead, head)),
    exposedHeaders: EXPOSED_HEADERS,
    allowedHeaders: [...ALLOWED_ALWAYS, ...deps.corsHeaders],
    generateUrl: (head, { path, id }) => `${requestOf(byHead, head).origin}${path}/${id}`,
    ...(deps.corsOrigins === '*' ? {} : { allowedOrigins: originCheck(deps.corsOrigins) }),
    onUploadCreate: async (head) => {
      const request = requestOf(byHead, head);
      request.description = describeUpload(request.req.get('Upload-Metadata'));
      return {};
    },
    onUploadFinish: async (head) => {
      const request = requestOf(byHead, head);
      await settle(deps, leaseOf(request), { actor: actorOf(request.req), signal: request.asked });
      return {};
    },
    onResponseError: (head, error) => {
      const request = requestOf(byHead, head);
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
      key: uuidv7(),
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
    byHead.set(head, request);
    byKey.set(request.key, request);
    const response = await server.handleWeb(head).finally(async () => {
      byKey.delete(request.key);
      await request.lease?.release();
    });
    if (response.status === 404) await noteForeign(deps, req);
    if (response.status === 404 || response.status === 410) await limits.countMiss(req, res);
    await deps.refusals.whenWritten(req);
    await answer(res, response);
  };
}

/** The upload id in a path. */
function idIn(path: string): string | undefined {
  const [, id] = /^\/uploads\/([^/]+)\/?$/.exec(path) ?? [];
  return id && isUuid(id) ? id.toLowerCase() : undefined;
}

/**
 * Takes the lease of the upload that the request names. A new upload gets its lease together with its row: no other
 * client knows its id yet. A HEAD mostly needs no lease, so several may look at one upload at once, beside a PATCH.
 * @throws {AppError} not_found, locked
 */
async function takeLease(leases: Leases, request: TusRequest): Promise<void> {
  const id = idIn(request.req.path);
  if (request.method === 'POST' || !id) return;
  const access = uploadAccessOf(principalOf(request));
  const take = request.method === 'HEAD' ? leases.look : leases.acquire;
  request.lease = await take(id, access, request.gone, request.letGo);
}

/** An upload of somebody else gets the answer for a missing one, but the event log records the attempt. */
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
 * Headers that @tus/server must not see. Express reads the headers of proxies, because it knows which proxies
 * to trust; upload-metadata.ts reads Upload-Metadata, because it accepts more values.
 */
const NOT_FOR_TUS = /^((x-)?forwarded.*|upload-metadata)$/;

/** The request without its body. */
function headOf(req: ExpressRequest): Request {
  const headers = new Headers();
  for (const [name, value] of Object.entries(req.headers)) {
    if (typeof value === 'string' && !NOT_FOR_TUS.test(name)) headers.set(name, value);
  }
  // @tus/server compares the type letter by letter.
  if (isOctets(req)) headers.set('Content-Type', OCTETS);
  // Only the path matters; the target of a request may also be a whole address (RFC 9112, 3.2.2).
  return new Request(`http://localhost${req.path}`, { method: req.method, headers });
}

async function answer(res: ExpressResponse, response: Response): Promise<void> {
  const body = await response.text();
  if (res.destroyed) return;
  // A web Response without content may still have a type.
  if (body === '') response.headers.delete('Content-Type');
  res.status(response.status).setHeaders(response.headers);
  res.end(body);
}

function originCheck(allowed: string[]): (origin: string) => boolean {
  return (origin) => allowed.includes(origin);
}

/**
 * Keeps the answers of @tus/server's own errors and gives our errors their status. Other errors reveal
 * nothing.
 * @param log undefined: the client is gone, so the error is not logged
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
  if (known instanceof UploadRefused && known.answer) {
    const { status, headers = {}, body = '' } = known.answer;
    for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
    return { status_code: status, body };
  }
  // Clients take any failed HEAD except 423 for the loss of the upload and send all of it again.
  const status = method === 'HEAD' && known.status >= 500 ? 423 : known.status;
  return { status_code: status, body: `${known.detail ?? known.title}\n` };
}
