import type { Request, Response } from 'express';
import { AppError } from '../../core/errors.js';
import type { Description } from '../../core/uploads/description.js';
import type { Lease } from '../../core/uploads/lease.js';
import type { Principal } from '../auth/principal.js';

/** The state of one request. */
export interface TusRequest {
  method: string;
  req: Request;
  res: Response;
  /** Absent for OPTIONS. */
  principal: Principal | undefined;
  /** Origin of the upload's URL, without a trailing slash. */
  origin: string;
  /** Description of the upload that the request creates. */
  description?: Description;
  lease?: Lease;
  /** Set when the end of the upload also ends its lease. */
  leavesLease?: boolean;
  /** Asks the request to stop soon. */
  letGo: () => void;
  /** Aborts when the request was asked to stop and its time is over. */
  asked: AbortSignal;
  /** Aborts when the client has gone. */
  gone: AbortSignal;
}

/** @throws {Error} when there is none, which is a bug */
export function requestOf<K>(requests: { get(key: K): TusRequest | undefined }, key: K): TusRequest {
  const request = requests.get(key);
  if (!request) throw new Error('no tus request is known by this');
  return request;
}

/** @throws {AppError} unauthenticated */
export function principalOf({ principal }: TusRequest): Principal {
  if (!principal) throw new AppError('unauthenticated');
  return principal;
}
