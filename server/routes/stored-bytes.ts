import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import type { File } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { hasLink, linkToBlob, openBlob, type StoredBlob } from '../../core/files/blobs.js';
import type { Storage } from '../../core/storage/storage.js';
import { chosenRange, isPreconditionMet, isUnchanged, listsTag } from '../http/conditions.js';
import { allowEmbedding } from '../http/security-headers.js';
import { writeDigest } from '../ietf/fields.js';
import { reprSha256Preference } from '../ietf/request.js';
import { type Answers, EMPTY } from './answers.js';

/* What the routes share that answer with stored bytes: of a file itself, or derived from it. */

export interface Content {
  blob: StoredBlob;
  type: string;
  /** Content-Disposition. */
  disposition: string;
  /** Strong, without quotes. */
  etag: string;
  modified: Date;
  /** Hex; undefined: not known. */
  sha256?: string | undefined;
}

const ANY_BYTES = { mediaType: '*/*' };

/** Whole or in part; elsewhere (302); as the client has it already. */
export const BYTES = { 200: ANY_BYTES, 206: ANY_BYTES, 302: EMPTY, 304: EMPTY } as const satisfies Answers;

export const BYTES_PROBLEMS = [
  'infected',
  'corrupted',
  'not_ready',
  'wrong_state',
  'precondition_failed',
  'range_not_satisfiable',
  'size_mismatch',
] as const;

/** How long a redirect may be cached; the URL in it stays valid for a minute longer. */
const REDIRECT_SECONDS = 240;

/** @throws {AppError} infected, corrupted, not_ready, wrong_state while a file must not be shown */
export function requireClean(file: File): void {
  if (file.status === 'infected') {
    throw new AppError('infected', { detail: file.error?.detail ?? 'The scan found something in this file' });
  }
  if (file.corruptedAt) {
    const detail =
      'A check has found that the stored bytes have changed: they are not served. Upload the file again';
    throw new AppError('corrupted', { detail });
  }
  if (file.clean && !file.inQuarantine) return;
  if (file.status === 'failed') {
    const why = file.error ? ` (${file.error.code}: ${file.error.detail})` : '';
    throw new AppError('wrong_state', {
      detail: `The processing has failed${why} before the file was found clean: delete it and upload it again`,
    });
  }
  throw new AppError('not_ready', { detail: 'The file has not been scanned yet' });
}

/**
 * Answers GET and HEAD with the whole content or one range of it, or 304, 412 or 416 (RFC 9110, sections 13 and
 * 14). If clients are to fetch bytes from the store, GET is redirected there, and the store evaluates If-Match
 * and If-Unmodified-Since.
 */
export async function sendContent(
  req: Request,
  res: Response,
  storage: Storage,
  content: Content,
): Promise<void> {
  const { blob, type, modified } = content;
  const { size } = blob;
  const etag = `"${content.etag}"`;
  const validators = { etag, modified };
  // The answers of the store have validators of their own. A client that names ours gets the bytes from here.
  const fromStore =
    req.method === 'GET' && hasLink(storage.blobs, blob) && !listsTag(req.get('If-Match'), etag);
  allowEmbedding(res);
  res.setHeader('Content-Type', type);
  res.setHeader('Content-Disposition', content.disposition);
  res.setHeader('Accept-Ranges', 'bytes');
  res.setHeader('ETag', etag);
  res.setHeader('Last-Modified', modified.toUTCString());
  if (!fromStore && !isPreconditionMet(req, validators)) throw new AppError('precondition_failed');
  if (isUnchanged(req, validators)) {
    res.status(304).end();
    return;
  }

  const range = chosenRange(req, size, validators);
  if (range === 'unsatisfiable') {
    res.setHeader('Content-Range', `bytes */${size}`);
    throw new AppError('range_not_satisfiable', { detail: `The file has ${size} bytes` });
  }
  if (fromStore) {
    const answer = { contentType: type, contentDisposition: content.disposition };
    const address = await linkToBlob(storage.blobs, blob, answer);
    if (address !== undefined) return redirect(res, address);
  }
  const bytes = req.method === 'HEAD' ? undefined : await openBlob(storage.blobs, blob, range);
  // Of the whole content, whichever part of it is sent (RFC 9530, 3).
  if (content.sha256 && reprSha256Preference(req) !== 0) {
    res.setHeader('Repr-Digest', writeDigest('sha-256', Buffer.from(content.sha256, 'hex')));
  }
  if (range) {
    res.status(206);
    res.setHeader('Content-Range', `bytes ${range.start}-${range.end}/${size}`);
  }
  res.setHeader('Content-Length', range ? range.end - range.start + 1 : size);
  if (!bytes) {
    res.end();
    return;
  }
  try {
    await pipeline(bytes, res);
  } catch (error) {
    // The client is gone, and the pipeline has stopped reading.
    if (!res.destroyed || res.errored) throw error;
  }
}

/**
 * Redirects the client to the store. The client repeats its range and its conditions there. The store cannot
 * send a Content-Security-Policy, but a type that could carry script is always an attachment.
 */
function redirect(res: Response, url: string): void {
  // These headers describe the content. If a cached redirect had an ETag, a 304 would revive its expired URL.
  for (const name of ['Content-Type', 'Content-Disposition', 'Accept-Ranges', 'ETag', 'Last-Modified']) {
    res.removeHeader(name);
  }
  res.setHeader('Cache-Control', `private, max-age=${REDIRECT_SECONDS}`);
  res.status(302).setHeader('Location', url).end();
}
