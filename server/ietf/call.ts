import type { Request, Response } from 'express';
import { AppError } from '../../core/errors.js';
import type { Lease } from '../../core/uploads/lease.js';
import type { Principal } from '../auth/principal.js';
import { originOf } from '../http/origin.js';
import { writeBoolean } from './fields.js';
import { sendInterim } from './interim.js';
import { type Dialect, dialectOf, VERSION_FIELD } from './versions.js';

/** How long the object of a whole upload may still be assembled after the request was asked to let go, in milliseconds. */
const ASSEMBLE_MS = 500;

/** The state of one request. */
export interface Call {
  req: Request;
  res: Response;
  dialect: Dialect;
  principal: Principal;
  /** Held until the request has its answer. */
  lease?: Lease;
  /** Whether the client has learnt where it can resume. */
  located: boolean;
  /** Asks the request to stop. */
  letGo: () => void;
  /** Aborts when the request was asked to stop: no further bytes are taken. */
  asked: AbortSignal;
  /** Aborts when the time for assembling the object is over too. */
  late: AbortSignal;
  /** Aborts when the client has gone. */
  gone: AbortSignal;
}

/** @throws {AppError} unauthenticated */
export function openCall(req: Request, res: Response): Call {
  const { principal } = req;
  if (!principal) throw new AppError('unauthenticated');
  const [gone, asked, late] = [new AbortController(), new AbortController(), new AbortController()];
  res.once('close', () => {
    if (!res.writableFinished) gone.abort();
  });
  return {
    req,
    res,
    dialect: dialectOf(req),
    principal,
    located: req.method !== 'POST' && req.method !== 'PUT',
    letGo() {
      if (asked.signal.aborted) return;
      asked.abort();
      setTimeout(() => late.abort(), ASSEMBLE_MS).unref();
    },
    asked: asked.signal,
    late: late.signal,
    gone: gone.signal,
  };
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

/** Tells the client the offset, unless it does not read what it was told before. */
export function tellProgress({ res, dialect }: Call, offset: number): void {
  const { version, progress } = dialect;
  if (version === undefined || !progress || res.socket?.writableLength !== 0) return;
  sendInterim(res, { [VERSION_FIELD]: String(version), 'Upload-Offset': String(offset) });
}

/** The address of an upload. */
export function locationOf({ req }: Call, id: string, publicUrl: string | undefined): string {
  return `${originOf(req, publicUrl)}/uploads/${id}`;
}

/** The header that says whether an upload is complete. */
export function completeness({ completeness: name }: Dialect, isComplete: boolean): Record<string, string> {
  return { [name]: writeBoolean(name === 'Upload-Complete' ? isComplete : !isComplete) };
}
