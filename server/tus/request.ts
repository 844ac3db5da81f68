import type { Request, Response } from 'express';
import { AppError } from '../../core/errors.js';
import type { Description } from '../../core/uploads/description.js';
import type { Lease } from '../../core/uploads/lease.js';
import type { Principal } from '../auth/principal.js';

/** The state of one request. */
export interface TusRequest {
  /** The name by which @tus/server asks the data store for the request's upload; no two requests have the same. */
  key: string;
  method: string;
  req: Request;
  res: Response;
  /** Absent for OPTIONS. */
  principal: Principal | undefined;
  /** Origin of the upload's URL, without a trailing slash. */
  origin: string;
  /** Description of the upload that the request creates. */
  description?: Description;
  /** Held until the request has its answer. Absent while an upload is not created, and if no bytes come with its creation. */
  lease?: Lease;
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

/** @throws {Error} when the request holds none, which is a bug */
export function leaseOf({ lease }: TusRequest): Lease {
  if (!lease) throw new Error('no lease is held');
  return lease;
}

/** @throws {AppError} unauthenticated */
export function principalOf({ principal }: TusRequest): Principal {
  if (!principal) throw new AppError('unauthenticated');
  return principal;
}
