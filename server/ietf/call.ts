import type { Request, Response } from 'express';
import type { Lease, Leases } from '../../core/uploads/lease.js';
import { openCall as openUploadCall, type UploadCall } from '../uploads/call.js';
import { writeBoolean } from './fields.js';
import { sendInterim } from './interim.js';
import { type Dialect, dialectOf, VERSION_FIELD } from './versions.js';

/** The state of one request of this protocol. */
export interface Call extends UploadCall {
  dialect: Dialect;
  /** Held until the request has its answer. */
  lease?: Lease | undefined;
  /** Whether the client has learnt where it can resume. */
  located: boolean;
}

/**
 * "Since the client is not allowed to perform multiple transfers for the same upload resource in parallel, the server can
 * assume that the previous attempt has already failed." So a request that is asked to let go takes no further bytes.
 */
const DRAIN_MS = 0;

export function openCall(leases: Leases, req: Request, res: Response): Call {
  return Object.assign(openUploadCall(leases, req, res, DRAIN_MS), {
    dialect: dialectOf(req),
    located: req.method !== 'POST' && req.method !== 'PUT',
  });
}

/** @throws {Error} when none is held, which is a bug */
export function leaseOf({ lease }: Call): Lease {
  if (!lease) throw new Error('no lease is held');
  return lease;
}

/** Tells the client where it can resume the upload. */
export function tellLocation(call: Call, headers: Record<string, string>): void {
  const { version } = call.dialect;
  if (version === undefined) return;
  call.located = sendInterim(call.res, { [VERSION_FIELD]: String(version), ...headers });
}

/** Tells the client a new offset, unless it does not read what it was told before. */
export function tellProgress({ res, dialect }: Call, offset: number): void {
  const { version, progress } = dialect;
  if (version === undefined || !progress || res.socket?.writableLength !== 0) return;
  sendInterim(res, { [VERSION_FIELD]: String(version), 'Upload-Offset': String(offset) });
}

/** The header that says whether an upload is complete. */
export function completeness({ completeness: name }: Dialect, isComplete: boolean): Record<string, string> {
  return { [name]: writeBoolean(name === 'Upload-Complete' ? isComplete : !isComplete) };
}
