import type { RequestHandler } from 'express';
import type { RateLimits } from '../core/config.js';

/** What is counted apart. */
export type Bucket = Exclude<keyof RateLimits, 'global'>;

export interface Limits {
  /** For everything, by address. Runs before anything is known of the caller. */
  global: RequestHandler;
  /** For one kind of request, by user, or by address where nobody is signed in. Runs after authentication. */
  bucket(name: Bucket): RequestHandler;
  close(): Promise<void>;
}

const none: RequestHandler = (_req, _res, next) => next();

export function createLimits(_limits: RateLimits): Limits {
  return { global: none, bucket: () => none, close: async () => {} };
}
