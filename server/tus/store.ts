import { DataStore, Upload as TusUpload } from '@tus/server';
import type { Request, Response } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import type { AppendControl } from '../../core/storage/storage.js';
import { createUpload } from '../../core/uploads/create.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { type FinishDeps, finishAndQueue } from '../../core/uploads/finish.js';
import type { Lease, Leases } from '../../core/uploads/lease.js';
import { appendToUpload, completeUpload, declareLength } from '../../core/uploads/ledger.js';
import { isOverdue, isTrashed } from '../../core/uploads/queries.js';
import { reserve, withinQuota } from '../../core/uploads/quota.js';
import { can } from '../auth/can.js';
import { actorOf } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import { readBody } from '../http/request-body.js';
import { writeMetadata } from '../upload-metadata.js';
import { isOctets } from './preflight.js';
import { principalOf, requestOf, type TusRequest } from './request.js';

/** Dependencies of the data store. */
export interface StoreDeps extends FinishDeps {
  leases: Leases;
  /** Bytes. */
  maxUploadSize: number;
}

/** How long HEAD waits until the object is assembled; after that it answers 423. */
const COMPLETE_ON_HEAD_MS = 10_000;

/** Implements the data store of @tus/server on top of the ledger. */
export class LedgerStore extends DataStore {
  override extensions = [
    'creation',
    'creation-with-upload',
    'creation-defer-length',
    'expiration',
    'termination',
  ];

  constructor(
    private readonly deps: StoreDeps,
    private readonly holders: Map<string, TusRequest>,
  ) {
    super();
  }

  override async create(upload: TusUpload): Promise<TusUpload> {
    const request = requestOf(this.holders, upload.id);
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
    if (request.lease && row.length === 0) {
      request.lease.upload = await completeUpload(this.deps, row, row.leaseEpoch);
      // @tus/server calls onUploadFinish next.
      request.leavesLease = true;
    }
    tellExpiry(request.res, row);
    return upload;
  }

  override async getUpload(key: string): Promise<TusUpload> {
    const { method, req, res } = requestOf(this.holders, key);
    const { upload, epoch } = this.lease(key);
    if (upload.status === 'expired' || upload.status === 'terminated' || isOverdue(upload)) {
      throw new AppError('gone');
    }
    // Clients remember upload URLs. If told that an upload is complete, they never send a deleted file again.
    if (upload.status === 'finished' && (await isTrashed(this.deps.database, upload.id))) {
      throw new AppError('gone', { detail: 'The file of this upload was deleted' });
    }
    // A server died after the last byte and before the object was assembled. Assemble it now, so that the
    // client need not wait for the reconciler. No client learns that the upload is complete before it is.
    if (method === 'HEAD' && upload.status === 'uploading' && upload.offset === upload.length) {
      await completeUpload(this.deps, upload, epoch, AbortSignal.timeout(COMPLETE_ON_HEAD_MS));
      await finishAndQueue(this.deps, upload.id, actorOf(req));
    }
    if (method === 'PATCH') checkLength(req, upload);
    const metadata = upload.metadataHeader ?? writeMetadata(upload.metadata);
    if (method === 'HEAD' && metadata) res.setHeader('Upload-Metadata', metadata);
    return new TusUpload({
      id: upload.id,
      offset: upload.offset,
      ...(upload.length === null ? {} : { size: upload.length }),
    });
  }

  override async declareUploadLength(id: string, length: number): Promise<void> {
    const lease = this.lease(id);
    lease.upload = await declareLength(this.deps, lease.upload, lease.epoch, length);
  }

  override async write(none: AsyncIterable<Uint8Array>, id: string): Promise<number> {
    // This stream belongs to the request that @tus/server got, which has no body.
    for await (const _ of none);
    const lease = this.lease(id);
    const request = requestOf(this.holders, id);
    const { req, res, asked } = request;
    const { length, offset, maxSize } = lease.upload;
    const most = length ?? Math.min(this.deps.maxUploadSize, maxSize ?? Number.POSITIVE_INFINITY);
    const body = readBody(req, most - offset);
    if (asked.aborted) body.end();
    asked.addEventListener('abort', body.end);
    const control = { hurry: asked, onFailure: body.end };
    if (length === null) await this.appendWithinQuota(lease, body, control);
    else lease.upload = await appendToUpload(this.deps, lease.upload, lease.epoch, body, control);
    // Nobody reads the rest of the body, so the connection must close.
    if (asked.aborted) res.setHeader('Connection', 'close');
    tellExpiry(res, lease.upload);
    // In this case @tus/server calls onUploadFinish next.
    request.leavesLease = lease.upload.objectKey !== null && lease.upload.status === 'uploading';
    return lease.upload.offset;
  }

  /** Appends to an upload of unknown length. Such an upload has reserved no quota yet. */
  private async appendWithinQuota(lease: Lease, body: AsyncIterable<Uint8Array>, control: AppendControl) {
    const { database, quota } = this.deps;
    const { id } = lease.upload;
    const source = withinQuota(this.deps, lease.upload, lease.epoch, body);
    try {
      lease.upload = await appendToUpload(this.deps, lease.upload, lease.epoch, source, control);
    } finally {
      // Gives back the part of the reservation that no bytes used. If this fails, the upload gives it back
      // when it continues or ends.
      await reserve(database.manager, quota, id, lease.epoch, { target: null }).catch(() => {});
    }
  }

  override async remove(id: string): Promise<void> {
    const request = requestOf(this.holders, id);
    const { upload } = this.lease(id);
    // A finished upload is a file.
    if (upload.status === 'finished' && !can(principalOf(request), 'manage', upload)) {
      throw new RefusedError(
        'forbidden',
        { action: 'manage', subjectId: id },
        'The upload is finished: deleting its file needs the right to manage files',
      );
    }
    await terminateUpload(this.deps, id, actorOf(request.req));
    request.leavesLease = true;
  }

  private lease(id: string): Lease {
    const { lease } = requestOf(this.holders, id);
    if (!lease) throw new Error('no lease is held');
    return lease;
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
