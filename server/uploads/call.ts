import type { Request, Response } from 'express';
import { validate as isUuid, v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import type { Creation } from '../../core/uploads/create.js';
import type { Lease, Leases } from '../../core/uploads/lease.js';
import { uploadAccessOf } from '../auth/can.js';
import { actorOf, type Principal } from '../auth/principal.js';
import { holderOf } from '../auth/upload-addresses.js';

/*
 * One request to an upload, whatever its protocol: who sends it, the lease that it holds, and the signals that say when
 * its client has gone or another request waits.
 */

/** In milliseconds. */
const DRAIN_MS = 500;

export interface UploadCall {
  readonly req: Request;
  readonly res: Response;
  /** The sender. @throws {AppError} unauthenticated on a route that anyone may call */
  principal(): Principal;
  readonly actor: Actor;
  /** Aborts when the client has gone before it had its answer. */
  readonly gone: AbortSignal;
  /** Aborts when another request wants the lease, or the process shuts down, and the time for more bytes is over. */
  readonly stop: AbortSignal;
  /** What a new upload of the sender begins with. No owner: a hook names the owner. */
  newUpload(): Pick<Creation, 'id' | 'ownerId' | 'actor' | 'token'>;
  /** Notes the new upload of the request. A sender whom only a hook knows becomes the holder of its address. */
  own(upload: Upload): void;
  /** Waits for the lease of an upload of the sender and takes it. @throws {AppError} not_found, locked */
  acquire(id: string): Promise<Lease>;
  /**
   * Reads an upload of the sender. Takes its lease only where an offset could still move, so several requests may look
   * at one upload at once; see Leases.look().
   * @throws {AppError} not_found, locked
   */
  look(id: string): Promise<Lease>;
  /** The lease that the row of a new upload was created with. */
  adopt(row: Upload): Lease;
  /** Gives the lease back, if the call holds one. Call it in a `finally`. Never throws. */
  end(): Promise<void>;
}

/**
 * Opens the call of a request. It may take one lease.
 * @param drainMs how long a request that was asked to release its lease may still write
 */
export function openCall(leases: Leases, req: Request, res: Response, drainMs = DRAIN_MS): UploadCall {
  req.uploadId = findUploadId(req.path);
  const gone = new AbortController();
  const stop = new AbortController();
  let lease: Lease | undefined;

  res.once('close', () => {
    if (!res.writableFinished) gone.abort();
  });
  const letGo = () => setTimeout(() => stop.abort(), drainMs).unref();

  function principal(): Principal {
    if (!req.principal) throw new AppError('unauthenticated');
    return req.principal;
  }

  async function take(how: Leases['acquire'], id: string): Promise<Lease> {
    lease = await how(id, uploadAccessOf(principal()), gone.signal, letGo);
    return lease;
  }

  return {
    req,
    res,
    principal,
    // The owner of a new upload may be known only after it is created.
    get actor() {
      return actorOf(req);
    },
    newUpload() {
      const { userId = null, uploadToken: token } = req.principal ?? {};
      return { id: uuidv7(), ownerId: userId, actor: actorOf(req), token };
    },
    own({ id, ownerId }) {
      req.uploadId = id;
      req.principal ??= holderOf(ownerId);
    },
    gone: gone.signal,
    stop: stop.signal,
    acquire: (id) => take(leases.acquire, id),
    look: (id) => take(leases.look, id),
    adopt(row) {
      lease = leases.adopt(row, letGo);
      return lease;
    },
    async end() {
      await lease?.release();
    },
  };
}

/** The upload that a path of `/uploads` names; undefined if it names none. */
export function findUploadId(path: string): string | undefined {
  const [, id] = /^\/uploads\/([^/]+)\/?$/.exec(path) ?? [];
  return id && isUuid(id) ? id.toLowerCase() : undefined;
}

/** The upload that the call's path names. @throws {AppError} not_found */
export function uploadIdOf({ req: { uploadId } }: UploadCall): string {
  if (!uploadId) throw new AppError('not_found');
  return uploadId;
}
