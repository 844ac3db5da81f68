import { DataStore, Server, Upload as TusUpload } from '@tus/server';
import type { Request as ExpressRequest, Response as ExpressResponse, RequestHandler } from 'express';
import { validate as isUuid, v7 as uuidv7 } from 'uuid';
import type { Upload } from '../core/database/entities/upload.js';
import { AppError } from '../core/errors.js';
import type { Logger } from '../core/log.js';
import { reserve, withinQuota } from '../core/quota.js';
import { type FinishDeps, finishAndQueue } from '../core/uploads/finish.js';
import type { Lease, Leases } from '../core/uploads/lease.js';
import {
  appendToUpload,
  completeUpload,
  createUpload,
  declareLength,
  terminateUpload,
} from '../core/uploads/ledger.js';
import { getUpload, isOverdue } from '../core/uploads/queries.js';
import { can, uploadAccessOf } from './auth/can.js';
import { actorOf, type Principal } from './auth/principal.js';
import { noteIfRefused, type Refusals, RefusedError } from './auth/refusals.js';
import { originOf } from './origin.js';
import { setErrorHeaders, toAppError } from './problem.js';
import { readBody } from './request-body.js';
import { EXPOSED_HEADERS } from './tus-preflight.js';
import { checkMetadata } from './upload-metadata.js';

/*
 * tus 1.0 at /uploads: @tus/server speaks the protocol, the ledger keeps the truth.
 *
 * @tus/server asks its data store by upload id alone. What that needs to know besides (who asks, and under which lease)
 * is found by the id as long as a request has the lock: there is only one then. @tus/server is given the head of each
 * request only: bodies go from the socket to the ledger without its streams in between.
 */

export interface TusDeps extends FinishDeps {
  leases: Leases;
  /** Bytes. */
  maxUploadSize: number;
  publicUrl: string | undefined;
  corsOrigins: '*' | string[];
  refusals: Refusals;
}

/** What one request carries with it. */
interface TusRequest {
  method: string;
  req: ExpressRequest;
  res: ExpressResponse;
  /** Absent for OPTIONS. */
  principal: Principal | undefined;
  /** Of the uploads that it asks for or makes, without a trailing slash. */
  origin: string;
  lease?: Lease;
  /** Asks the request to stop soon. */
  letGo: () => void;
  /** Aborts when it was asked to and its time is over. */
  asked: AbortSignal;
  /** Aborts when the client has gone. */
  gone: AbortSignal;
}

/** How long a request that was asked to let go may still write, in milliseconds. */
const DRAIN_MS = 500;

/** How long HEAD waits for an object that is still to be made; then it answers 423. */
const COMPLETE_ON_HEAD_MS = 10_000;

/** The handler for `/uploads{/*path}`; expects `req.principal`, except for OPTIONS. */
export function createTusHandler(deps: TusDeps): RequestHandler {
  /** By what @tus/server gets to see of them. */
  const requests = new WeakMap<Request, TusRequest>();
  /** By upload, while they have its lock. */
  const holders = new Map<string, TusRequest>();

  const server = new Server({
    path: '/uploads',
    datastore: new LedgerStore(deps, holders),
    locker: (head) => ({ newLock: (id) => createLock(deps.leases, id, of(requests, head), holders) }),
    maxSize: deps.maxUploadSize,
    namingFunction: () => uuidv7(),
    exposedHeaders: EXPOSED_HEADERS,
    allowedHeaders: ['X-Request-Id'],
    generateUrl: (head, { path, id }) => `${of(requests, head).origin}${path}/${id}`,
    getFileIdFromRequest: (req) => idIn(new URL(req.url).pathname),
    ...(deps.corsOrigins === '*' ? {} : { allowedOrigins: originCheck(deps.corsOrigins) }),
    onUploadCreate: async (_req, upload) => ({ metadata: checkMetadata(upload.metadata ?? {}) }),
    onUploadFinish: async (head, upload) => {
      await finishAndQueue(deps, upload.id, actorOf(of(requests, head).req));
      return {};
    },
    onResponseError: (head, error) => {
      const request = of(requests, head);
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
    if (response.status === 404) void noteForeign(deps, req);
    await answer(res, response);
  };
}

/** The id of the upload that a path is of. */
function idIn(path: string): string | undefined {
  const [, id] = /^\/uploads\/([^/]+)\/?$/.exec(path) ?? [];
  return id && isUuid(id) ? id.toLowerCase() : undefined;
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

function of<K>(requests: { get(key: K): TusRequest | undefined }, key: K): TusRequest {
  const request = requests.get(key);
  if (!request) throw new Error('no tus request is known by this');
  return request;
}

function principalOf({ principal }: TusRequest): Principal {
  if (!principal) throw new AppError('unauthenticated');
  return principal;
}

/** The request without its body. What a proxy says of itself is Express' business, which knows the proxies to trust. */
function headOf(req: ExpressRequest): Request {
  const headers = new Headers();
  for (const [name, value] of Object.entries(req.headers)) {
    if (typeof value === 'string' && !/^(x-)?forwarded/.test(name)) headers.set(name, value);
  }
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

function createLock(leases: Leases, id: string, request: TusRequest, holders: Map<string, TusRequest>) {
  return {
    async lock(): Promise<void> {
      // A new upload gets its lease with its row, and nobody else knows its id yet.
      if (request.method !== 'POST') {
        const access = uploadAccessOf(principalOf(request));
        request.lease = await leases.acquire(id, access, request.gone, request.letGo);
      }
      holders.set(id, request);
    },
    async unlock(): Promise<void> {
      holders.delete(id);
      const { lease, method } = request;
      // onUploadFinish comes next.
      const isComplete = lease?.upload.status === 'uploading' && lease.upload.objectKey !== null;
      if (isComplete && (method === 'PATCH' || method === 'POST')) lease.leave();
      else await lease?.release();
    },
  };
}

/** What @tus/server calls a data store, over the ledger. */
class LedgerStore extends DataStore {
  override extensions = [
    'creation',
    'creation-with-upload',
    'creation-defer-length',
    'expiration',
    'termination',
  ];

  constructor(
    private readonly deps: TusDeps,
    private readonly holders: Map<string, TusRequest>,
  ) {
    super();
  }

  override async create(upload: TusUpload): Promise<TusUpload> {
    const request = of(this.holders, upload.id);
    const { holder, adopt } = this.deps.leases;
    const goesOn = upload.size === 0 || request.req.get('Content-Type') === 'application/offset+octet-stream';
    const { userId, uploadToken } = principalOf(request);
    const row = await createUpload(this.deps, {
      id: upload.id,
      ownerId: userId,
      length: upload.size ?? null,
      metadata: upload.metadata ?? {},
      leaseHolder: goesOn ? holder : null,
      actor: actorOf(request.req),
      token: uploadToken,
    });
    if (goesOn) request.lease = adopt(row, request.letGo);
    if (request.lease && row.length === 0) {
      request.lease.upload = await completeUpload(this.deps, row, row.leaseEpoch);
    }
    tellExpiry(request.res, row);
    return upload;
  }

  override async getUpload(id: string): Promise<TusUpload> {
    const { upload, epoch } = this.lease(id);
    if (upload.status === 'expired' || upload.status === 'terminated' || isOverdue(upload)) {
      throw new AppError('gone');
    }
    const { method, req } = of(this.holders, id);
    // A server died before it came to that: who asks now is not to wait for the reconciler. And no client is told that
    // all is there before it is.
    if (method === 'HEAD' && upload.status === 'uploading' && upload.offset === upload.length) {
      await completeUpload(this.deps, upload, epoch, AbortSignal.timeout(COMPLETE_ON_HEAD_MS));
      await finishAndQueue(this.deps, upload.id, actorOf(req));
    }
    return new TusUpload({
      id: upload.id,
      offset: upload.offset,
      ...(Object.keys(upload.metadata).length > 0 ? { metadata: upload.metadata } : {}),
      ...(upload.length === null ? {} : { size: upload.length }),
    });
  }

  override async declareUploadLength(id: string, length: number): Promise<void> {
    const lease = this.lease(id);
    lease.upload = await declareLength(this.deps, lease.upload, lease.epoch, length);
  }

  override async write(none: AsyncIterable<Uint8Array>, id: string): Promise<number> {
    // Of the request that it was given, which has no body.
    for await (const _ of none);
    const lease = this.lease(id);
    const { req, res, asked } = of(this.holders, id);
    const { length, offset, maxSize } = lease.upload;
    const most = length ?? Math.min(this.deps.maxUploadSize, maxSize ?? Number.POSITIVE_INFINITY);
    const body = readBody(req, most - offset);
    if (asked.aborted) body.end();
    asked.addEventListener('abort', () => body.end());
    if (length === null) await this.appendWithinQuota(lease, body, asked);
    else lease.upload = await appendToUpload(this.deps, lease.upload, lease.epoch, body, asked);
    // The rest of the body, if there is any, is not wanted.
    if (asked.aborted) res.setHeader('Connection', 'close');
    tellExpiry(res, lease.upload);
    return lease.upload.offset;
  }

  /** Of an upload that has reserved nothing, because nobody knows how long it becomes. */
  private async appendWithinQuota(lease: Lease, body: AsyncIterable<Uint8Array>, asked: AbortSignal) {
    const { database, quota } = this.deps;
    const { id } = lease.upload;
    const source = withinQuota(this.deps, lease.upload, lease.epoch, body);
    try {
      lease.upload = await appendToUpload(this.deps, lease.upload, lease.epoch, source, asked);
    } finally {
      // What was reserved and did not come. If that fails, it is given back when the upload goes on or ends.
      await reserve(database.manager, quota, id, lease.epoch, { target: null }).catch(() => {});
    }
  }

  override async remove(id: string): Promise<void> {
    const request = of(this.holders, id);
    const { upload } = this.lease(id);
    // Then it is a file.
    if (upload.status === 'finished' && !can(principalOf(request), 'manage', upload)) {
      throw new RefusedError(
        'forbidden',
        { action: 'manage', subjectId: id },
        'The upload is finished: only who may manage files can delete what came of it',
      );
    }
    await terminateUpload(this.deps, id, actorOf(request.req));
  }

  private lease(id: string): Lease {
    const { lease } = of(this.holders, id);
    if (!lease) throw new Error('no lease is held');
    return lease;
  }
}

/**
 * "If the expiration is known at the creation, the Upload-Expires header MUST be included in the response", and in
 * that to "every PATCH request if the upload is going to expire". @tus/server would count from the creation; we count
 * from the last append, so the data store names it no expiry and this does it.
 */
function tellExpiry(res: ExpressResponse, upload: Upload): void {
  if (upload.offset === upload.length) res.removeHeader('Upload-Expires');
  else res.setHeader('Upload-Expires', upload.expiresAt.toUTCString());
}
