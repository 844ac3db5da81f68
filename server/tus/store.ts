import { DataStore, Upload as TusUpload } from '@tus/server';
import type { Request, Response } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { declareLength } from '../../core/uploads/commit.js';
import { createUpload } from '../../core/uploads/create.js';
import { terminateUpload } from '../../core/uploads/end.js';
import type { Leases } from '../../core/uploads/lease.js';
import { isOverdue, isTrashed } from '../../core/uploads/queries.js';
import { type ReceiveDeps, receive } from '../../core/uploads/receive.js';
import { type SettleDeps, settle } from '../../core/uploads/settle.js';
import { can } from '../auth/can.js';
import { actorOf } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import { readBody } from '../http/request-body.js';
import { writeMetadata } from '../upload-metadata.js';
import { isOctets } from './preflight.js';
import { leaseOf, principalOf, requestOf, type TusRequest } from './request.js';

/** Dependencies of the data store. */
export interface StoreDeps extends ReceiveDeps, SettleDeps {
  leases: Leases;
}

/** How long HEAD waits until the object is assembled; after that it answers 423. */
const ASSEMBLE_ON_HEAD_MS = 10_000;

/** Implements the data store of @tus/server on top of the ledger. */
export class LedgerStore extends DataStore {
  override extensions = [
    'creation',
    'creation-with-upload',
    'creation-defer-length',
    'expiration',
    'termination',
  ];

  /** @param requests those that are being handled, by their keys */
  constructor(
    private readonly deps: StoreDeps,
    private readonly requests: Map<string, TusRequest>,
  ) {
    super();
  }

  override async create(upload: TusUpload): Promise<TusUpload> {
    const request = requestOf(this.requests, upload.id);
    const { holder, adopt } = this.deps.leases;
    const goesOn = upload.size === 0 || isOctets(request.req);
    const { userId, uploadToken } = principalOf(request);
    const row = await createUpload(this.deps, {
      id: upload.id,
      ownerId: userId,
      length: upload.size ?? null,
      ...(request.description ?? { metadata: {} }),
      leaseHolder: goesOn ? holder : null,
      actor: actorOf(request.req),
      token: uploadToken,
    });
    if (goesOn) request.lease = adopt(row, request.letGo);
    tellExpiry(request.res, row);
    return upload;
  }

  override async getUpload(key: string): Promise<TusUpload> {
    const request = requestOf(this.requests, key);
    const { method, req, res } = request;
    const lease = leaseOf(request);
    const { upload } = lease;
    if (upload.status === 'expired' || upload.status === 'terminated' || isOverdue(upload)) {
      throw new AppError('gone');
    }
    // Clients remember upload URLs. If told that an upload is complete, they never send a deleted file again.
    if (upload.status === 'finished' && (await isTrashed(this.deps.database, upload.id))) {
      throw new AppError('gone', { detail: 'The file of this upload was deleted' });
    }
    // A server died after the last byte and before there was a file. Make it now, so that the client need not wait for
    // the reconciler. No client learns that the upload is complete before it is.
    if (method === 'HEAD' && upload.status === 'uploading' && upload.offset === upload.length) {
      const signal = AbortSignal.timeout(ASSEMBLE_ON_HEAD_MS);
      await settle(this.deps, lease, { actor: actorOf(req), signal });
    }
    if (method === 'PATCH') checkLength(req, upload);
    const metadata = upload.metadataHeader ?? writeMetadata(upload.metadata);
    if (method === 'HEAD' && metadata) res.setHeader('Upload-Metadata', metadata);
    return new TusUpload({
      id: key,
      offset: upload.offset,
      ...(upload.length === null ? {} : { size: upload.length }),
    });
  }

  override async declareUploadLength(key: string, length: number): Promise<void> {
    await declareLength(this.deps, leaseOf(requestOf(this.requests, key)), length);
  }

  override async write(none: AsyncIterable<Uint8Array>, key: string): Promise<number> {
    // This stream belongs to the request that @tus/server got, which has no body.
    for await (const _ of none);
    const request = requestOf(this.requests, key);
    const lease = leaseOf(request);
    await receive(this.deps, lease, readBody(request.req), { stop: request.asked });
    // Nobody reads the rest of the body, so the connection must close.
    if (request.asked.aborted) request.res.setHeader('Connection', 'close');
    tellExpiry(request.res, lease.upload);
    return lease.upload.offset;
  }

  override async remove(key: string): Promise<void> {
    const request = requestOf(this.requests, key);
    const lease = leaseOf(request);
    // A finished upload is a file.
    if (lease.upload.status === 'finished' && !can(principalOf(request), 'manage', lease.upload)) {
      throw new RefusedError(
        'forbidden',
        { action: 'manage', subjectId: lease.id },
        'The upload is finished: deleting its file needs the right to manage files',
      );
    }
    await terminateUpload(this.deps, lease.id, actorOf(request.req), lease);
  }
}

/**
 * Checks the Upload-Length of a PATCH. @tus/server would answer that it is required.
 * @throws {AppError} invalid_request
 */
function checkLength(req: Request, { offset, length }: Upload): void {
  const declared = req.get('Upload-Length');
  // A wrong offset is reported first.
  if (declared === undefined || Number(req.get('Upload-Offset')) !== offset) return;
  if (length !== null) {
    throw new AppError('invalid_request', {
      detail: `The length of this upload is known, ${length} bytes: send no Upload-Length`,
    });
  }
  if (Number(declared) < offset) {
    throw new AppError('invalid_request', {
      detail: `Upload-Length is ${declared}, but ${offset} bytes are stored: it must be at least that`,
    });
  }
}

/**
 * "If the expiration is known at the creation, the Upload-Expires header MUST be included in the response",
 * and in that to "every PATCH request if the upload is going to expire". @tus/server would count from the
 * creation. This server counts from the last append, so the data store reports no expiry and this function
 * sets the header.
 */
function tellExpiry(res: Response, upload: Upload): void {
  if (upload.offset === upload.length) res.removeHeader('Upload-Expires');
  else res.setHeader('Upload-Expires', upload.expiresAt.toUTCString());
}
