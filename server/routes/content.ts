import contentDisposition from 'content-disposition';
import type { Request, Response } from 'express';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DERIVATIVE_NAME } from '../../core/database/entities/derivative.js';
import type { File } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { compressionRatio, OPTIMIZED, readOptimized, whyNotOptimized } from '../../core/files/optimized.js';
import { getBlob, getFile, listDerivatives, type StoredDerivative } from '../../core/files/queries.js';
import type { Storage } from '../../core/storage/storage.js';
import { byId } from './fields.js';
import { type AnyRoute, route } from './route.js';
import { BYTES, BYTES_PROBLEMS, requireClean, sendContent } from './stored-bytes.js';

interface ContentDeps {
  database: DataSource;
  storage: Storage;
}

/** Types that browsers may show in place. A type that could carry script is always downloaded. */
const INLINE =
  /^(image\/(jpeg|png|apng|webp|gif|avif|bmp|tiff|heic|heif)|video\/[\w.+-]+|audio\/[\w.+-]+|application\/pdf|text\/plain)(;|$)/;

/** Serves the bytes of files and of their thumbnails. */
export function contentRoutes({ database, storage }: ContentDeps): AnyRoute[] {
  async function findDerivative({ id }: File, name: string): Promise<StoredDerivative | undefined> {
    const derivatives = await listDerivatives(database, [id]);
    return derivatives.find((derivative) => derivative.name === name);
  }

  async function sendDerivative(req: Request, res: Response, file: File, name: string): Promise<void> {
    const found = await findDerivative(file, name);
    if (!found) throw new AppError('not_found', { detail: `This file has no ${name}` });
    await sendFound(req, res, file, found);
  }

  async function sendFound(req: Request, res: Response, file: File, found: StoredDerivative): Promise<void> {
    const inline = INLINE.test(found.contentType);
    res.setHeader('Cache-Control', 'private, max-age=3600');
    await sendContent(req, res, storage, {
      blob: found.blob,
      type: found.contentType,
      disposition: inline ? 'inline' : 'attachment',
      etag: found.blobId,
      modified: file.createdAt,
    });
  }

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
      problems: BYTES_PROBLEMS,
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
        await sendContent(req, res, storage, {
          blob,
          type: type === 'text/plain' ? textType(file) : type,
          disposition,
          etag: file.sha256 ?? blob.id,
          modified: file.createdAt,
          sha256: file.sha256 ?? undefined,
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
      problems: BYTES_PROBLEMS,
      async handle({ params, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        await sendDerivative(req, res, file, `thumbnail-${params.size}`);
      },
    }),
    route({
      method: 'get',
      path: '/api/files/:id/optimized',
      access: 'read',
      link: 'resource',
      limit: 'downloads',
      summary:
        'The optimised form of an image, with X-Original-Size, X-Compression-Ratio and X-Processing-Time (milliseconds)',
      params: byId,
      answers: BYTES,
      problems: BYTES_PROBLEMS,
      async handle({ params, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        const found = await findDerivative(file, OPTIMIZED);
        if (!found) throw new AppError('not_found', { detail: whyNotOptimized(file) });
        res.setHeader('X-Original-Size', file.size);
        res.setHeader('X-Compression-Ratio', compressionRatio(found.blob.size, file.size));
        const { durationMs } = readOptimized(file) ?? {};
        if (durationMs !== undefined) res.setHeader('X-Processing-Time', durationMs);
        await sendFound(req, res, file, found);
      },
    }),
    route({
      method: 'get',
      path: '/api/files/:id/derived/:name',
      access: 'read',
      link: 'resource',
      limit: 'downloads',
      summary:
        'Something that a step has made from the file, such as a preview; the file names it under `derived`',
      params: byId.extend({
        name: z.string().regex(DERIVATIVE_NAME, 'must be a name under `derived` of the file'),
      }),
      answers: BYTES,
      problems: BYTES_PROBLEMS,
      async handle({ params, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        await sendDerivative(req, res, file, params.name);
      },
    }),
  ];
}

/** With a wrong charset a browser shows garbage; without a charset it guesses. */
function textType({ metadata }: File): string {
  const { charset = 'utf-8' } = (metadata.text ?? {}) as { charset?: string };
  return charset === 'unknown-8bit' ? 'text/plain' : `text/plain; charset=${charset}`;
}
