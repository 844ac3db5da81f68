import type { ErrorCode } from '../core/errors.js';
import type { BlobReference } from '../core/storage/storage.js';

/** What the worker asks of a parser process, and what comes back; sent with the `advanced` serialisation. */
export interface ParserTask {
  task: 'metadata' | 'thumbnails';
  source: BlobReference;
}

export type ParserAnswer =
  | { ok: true; result: Record<string, unknown> | Thumbnail[] }
  | { ok: false; code: ErrorCode; detail: string };

export interface Thumbnail {
  name: string;
  bytes: Uint8Array;
  /** Pixels. */
  width: number;
  height: number;
}

/** Limits that the parser process keeps by itself; the time limit is the worker's. */
export interface ParserLimits {
  maxImagePixels: number;
  /** The worker's, for one task. */
  timeoutSeconds: number;
  /** Bytes of resident memory. */
  memory: number;
}

/** What a parser process ends itself with when it finds itself over its memory limit. */
export const TOO_MUCH_MEMORY = 'SIGUSR2';
