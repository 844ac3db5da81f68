import type { Request, RequestHandler, Response } from 'express';
import { type Bucket, countIn, type Limits } from '../limits/limits.js';

/*
 * The rate limits of /uploads. They match those of /api, except that an upload once admitted may always
 * continue, however many other requests its user or address sends. Only the answer tells whether the upload
 * exists, so a request for a missing upload is counted at the end.
 */

const LIMITED: Record<string, Bucket> = { POST: 'uploads', PUT: 'uploads', DELETE: 'processing' };

/** Methods that continue an admitted upload or only ask for the server's options. */
const UNLIMITED = ['PATCH', 'HEAD', 'OPTIONS'];

export interface TusLimits {
  /** The global limit, by address. Runs before authentication. */
  globally: RequestHandler;
  /** Runs after authentication. */
  byKind: RequestHandler;
  /** Counts a request for a missing upload, unless it was counted before. @throws {AppError} rate_limited */
  countMiss(req: Request, res: Response): Promise<void>;
}

/** Creates the rate limits of /uploads. */
export function createTusLimits(limits: Limits): TusLimits {
  return {
    globally: (req, res, next) => (UNLIMITED.includes(req.method) ? next() : limits.global(req, res, next)),
    byKind(req, res, next) {
      const bucket = LIMITED[req.method];
      return bucket ? limits.bucket(bucket)(req, res, next) : next();
    },
    async countMiss(req, res) {
      if (UNLIMITED.includes(req.method)) await countIn(limits.global, req, res);
    },
  };
}
