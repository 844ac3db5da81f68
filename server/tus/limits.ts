import type { Request, RequestHandler, Response } from 'express';
import type { Bucket, Limits } from '../limits/limits.js';

/*
 * What counts against which limit at /uploads: the same as at /api. But an upload that was let in may be gone on with,
 * however much else its user or address does. Whether there is such an upload is known at the end only: a request that
 * comes to none is counted then.
 */

const LIMITED: Record<string, Bucket> = { POST: 'uploads', DELETE: 'processing' };

/** Methods that go on with what was let in, or only ask how to begin. */
const UNLIMITED = ['PATCH', 'HEAD', 'OPTIONS'];

export interface TusLimits {
  /** By address. Runs before anything is known of the caller. */
  globally: RequestHandler;
  /** Runs after authentication. */
  byKind: RequestHandler;
  /** Counts a request that comes to no upload, unless it was counted before. @throws {AppError} rate_limited */
  countMiss(req: Request, res: Response): Promise<void>;
}

/** What counts the requests to /uploads that come to this server. */
export function createTusLimits(limits: Limits): TusLimits {
  return {
    globally: (req, res, next) => (UNLIMITED.includes(req.method) ? next() : limits.global(req, res, next)),
    byKind(req, res, next) {
      const bucket = LIMITED[req.method];
      return bucket ? limits.bucket(bucket)(req, res, next) : next();
    },
    async countMiss(req, res) {
      if (!UNLIMITED.includes(req.method)) return;
      await new Promise<void>((resolve, reject) => {
        limits.global(req, res, (limited?: unknown) => (limited ? reject(limited) : resolve()));
      });
    },
  };
}
