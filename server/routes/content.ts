import { pipeline } from 'node:stream/promises';
import contentDisposition from 'content-disposition';
import type { Request, Response } from 'express';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { File } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { hasLink, linkToBlob, openBlob, type StoredBlob } from '../../core/files/blobs.js';
import { getBlob, getFile, listDerivatives } from '../../core/files/queries.js';
import type { Storage } from '../../core/storage/storage.js';
import { chosenRange, isPreconditionMet, isUnchanged, listsTag } from '../http/conditions.js';
import { allowEmbedding } from '../http/security-headers.js';
import { type Answers, EMPTY } from './answers.js';
import { byId } from './fields.js';
import { type AnyRoute, route } from './route.js';

interface ContentDeps {
  database: DataSource;
  storage: Storage;
}

interface Content {
  blob: StoredBlob;
  type: string;
  /** Content-Disposition. */
  disposition: string;
  /** Strong, without quotes. */
  etag: string;
  modified: Date;
}

/** Types that browsers may show in place. A type that could carry script is always downloaded. */
const INLINE =
  /^(image\/(jpeg|png|apng|webp|gif|avif|bmp|tiff|heic|heif)|video\/[\w.+-]+|audio\/[\w.+-]+|application\/pdf|text\/plain)(;|$)/;

const ANY_BYTES = { mediaType: '*/*' };

/** Whole or in part; elsewhere (302); as the client has it already. */
const BYTES = { 200: ANY_BYTES, 206: ANY_BYTES, 302: EMPTY, 304: EMPTY } as const satisfies Answers;

const PROBLEMS = [
  'infected',
  'not_ready',
  'wrong_state',
  'precondition_failed',
  'range_not_satisfiable',
  'size_mismatch',
] as const;

/** How long a redirect may be cached; the URL in it stays valid for a minute longer. */
const REDIRECT_SECONDS = 240;

/** Serves the bytes of files and of their thumbnails. */
export function contentRoutes({ database, storage }: ContentDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/files/:id/content',
      access: 'read',
      link: 'resource',
      limit: 'downloads',
      summary: 'The bytes of a file',
      params: byId,
      query: z.object({
        download: z.enum(['0', '1'], 'must be 0 or 1').default('0'),
        token: z.string().optional(),
      }),
      answers: BYTES,
      problems: PROBLEMS,
      async handle({ params, query, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        const blob = await getBlob(database, file);
        const type = file.detectedType ?? 'application/octet-stream';
        const inline = query.download === '0' && INLINE.test(type);
        const disposition = contentDisposition(file.filename, {
          type: inline ? 'inline' : 'attachment',
          // Many clients mistake Latin-1 for UTF-8, so only filename* has characters beyond ASCII (RFC 6266).
          fallback: file.filename.replaceAll(/[^\x20-\x7e]/g, '?'),
        });
        res.setHeader('Cache-Control', 'private, no-cache');
        await send(req, res, storage, {
          blob,
          type: type === 'text/plain' ? textType(file) : type,
          disposition,
          etag: file.sha256 ?? blob.id,
          modified: file.createdAt,
        });
      },
    }),
    route({
      method: 'get',
      path: '/api/files/:id/thumbnails/:size',
      access: 'read',
      link: 'resource',
      limit: 'downloads',
      summary: 'A preview image (WebP)',
      params: byId.extend({ size: z.enum(['small', 'medium', 'large']) }),
      answers: BYTES,
      problems: PROBLEMS,
      async handle({ params, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        const derivatives = await listDerivatives(database, [file.id]);
        const thumbnail = derivatives.find(({ name }) => name === `thumbnail-${params.size}`);
        if (!thumbnail) throw new AppError('not_found', { detail: 'This file has no thumbnail' });
        res.setHeader('Cache-Control', 'private, max-age=3600');
        await send(req, res, storage, {
          blob: thumbnail.blob,
          type: thumbnail.contentType,
          disposition: 'inline',
          etag: thumbnail.blobId,
          modified: file.createdAt,
        });
      },
    }),
  ];
}

/** With a wrong charset a browser shows garbage; without a charset it guesses. */
function textType({ metadata }: File): string {
  const { charset = 'utf-8' } = (metadata.text ?? {}) as { charset?: string };
  return charset === 'unknown-8bit' ? 'text/plain' : `text/plain; charset=${charset}`;
}

function requireClean(file: File): void {
  if (file.status === 'infected') {
    throw new AppError('infected', { detail: file.error?.detail ?? 'The scan found something in this file' });
  }
  if (file.clean) return;
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
async function send(req: Request, res: Response, storage: Storage, content: Content): Promise<void> {
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
