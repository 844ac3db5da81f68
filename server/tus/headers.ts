import { once } from 'node:events';
import type { Request } from 'express';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import type { Estimates } from '../../core/files/estimates.js';
import type { UploadCall } from '../uploads/call.js';

/* Headers of tus that several verbs read or write. */

/** An answer of tus; each has no content, except for refusals. */
export interface TusAnswer {
  status: number;
  headers: Record<string, string | number>;
  /** Plain text, unless a hook has chosen it. */
  body?: string | undefined;
}

/** The type of a body that is a piece of a file. */
const OCTETS = 'application/offset+octet-stream';

/** RFC 9110, 8.3.1: "The type and subtype tokens are case-insensitive." Parameters have no meaning here. */
export function isOctets(req: Request): boolean {
  return req.get('Content-Type')?.split(';')[0]?.trim().toLowerCase() === OCTETS;
}

/** @throws {AppError} unsupported_media_type */
export function requireOctets(req: Request): void {
  if (!isOctets(req))
    throw new AppError('unsupported_media_type', { detail: `Send Content-Type: ${OCTETS}` });
}

/**
 * Whether the request has a body. RFC 9112, 6.3: only Content-Length and Transfer-Encoding announce one. A proxy that takes
 * HTTP/2 may announce a chunked body where there is none, so its first byte or its end is waited for.
 */
export async function hasBody({ req, gone }: Pick<UploadCall, 'req' | 'gone'>): Promise<boolean> {
  if (req.headers['transfer-encoding'] === undefined) return Number(req.headers['content-length'] ?? 0) > 0;
  if (req.readableLength === 0 && !req.readableEnded) {
    const over = new AbortController();
    const signal = AbortSignal.any([gone, over.signal]);
    // An empty body that has already arrived only ends.
    await Promise.race([once(req, 'readable', { signal }), once(req, 'end', { signal })]).finally(() =>
      over.abort(),
    );
  }
  return req.readableLength > 0;
}

/**
 * Reads Upload-Length or Upload-Offset: "The value MUST be a non-negative integer."
 * @returns bytes; undefined if there is no such header
 * @throws {AppError} invalid_request
 */
export function readBytes(req: Request, name: 'Upload-Length' | 'Upload-Offset'): number | undefined {
  const text = req.get(name);
  if (text === undefined) return undefined;
  const bytes = Number(text);
  // Number() also reads 1e3 and 0x10, and rounds what it cannot hold.
  if (!/^(0|[1-9]\d*)$/.test(text) || !Number.isSafeInteger(bytes)) {
    throw new AppError('invalid_request', { detail: `${name} must be a whole number` });
  }
  return bytes;
}

/**
 * "The Upload-Expires response header indicates the time after which the unfinished upload expires." An upload whose
 * bytes are all here does not expire, unless it is a partial one.
 */
export function expiryOf({ kind, offset, length, expiresAt }: Upload): { 'Upload-Expires'?: string } {
  return kind !== 'partial' && offset === length ? {} : { 'Upload-Expires': expiresAt.toUTCString() };
}

/** The header of the answer to the last bytes: how many seconds the file will probably take. It is ours, not one of tus. */
export const ESTIMATE = 'Upload-Processing-Estimate';

/** @returns no header for an upload that is not a file, and while no such files are known */
export async function estimateOf(
  { estimates }: { estimates: Pick<Estimates, 'forNewFile'> },
  { kind, offset, length, declaredType, settings }: Upload,
): Promise<{ [ESTIMATE]?: number }> {
  if (kind === 'partial' || offset !== length) return {};
  const { seconds } = await estimates.forNewFile(declaredType, length, settings);
  return seconds === null ? {} : { [ESTIMATE]: seconds };
}
