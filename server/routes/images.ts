import type { Request, Response } from 'express';
import type { DataSource } from 'typeorm';
import type { Config } from '../../core/config.js';
import type { File } from '../../core/database/entities/file.js';
import { AppError, type ErrorCode } from '../../core/errors.js';
import { getBlob, getFile } from '../../core/files/queries.js';
import { findVariant, type Variant } from '../../core/files/variants.js';
import { isRendered, keyOf, type Rendering } from '../../core/media/rendering.js';
import type { Storage } from '../../core/storage/storage.js';
import { imageLink } from '../answers/images.js';
import type { Keys } from '../auth/keys.js';
import { signFixedLink } from '../auth/links.js';
import { Abandoned, type Images } from '../images/images.js';
import { imageBody, imageQuery, toRendering } from '../images/parameters.js';
import { countIn, type Limits } from '../limits/limits.js';
import { NOBODY } from './answers.js';
import { byId } from './fields.js';
import { type AnyRoute, route } from './route.js';
import { BYTES, BYTES_PROBLEMS, requireClean, sendContent } from './stored-bytes.js';

interface ImageDeps {
  database: DataSource;
  storage: Storage;
  images: Images;
  imageSizes: Config['imageSizes'];
  limits: Limits;
  keys: Keys;
}

/** Problems of the content. If one of them has kept the worker from making thumbnails, rendering is not tried. */
const FAULTS: readonly ErrorCode[] = ['unreadable', 'too_many_pixels', 'took_too_long', 'too_much_memory'];

/** Images in the form that a page needs, rendered when they are first asked for. */
export function imageRoutes({ database, storage, images, imageSizes, limits, keys }: ImageDeps): AnyRoute[] {
  /** A rendering costs far more than a download, so it counts in another limit too. */
  async function render(req: Request, res: Response, file: File, rendering: Rendering): Promise<Variant> {
    requireDecoded(file);
    const blob = await getBlob(database, file);
    const gone = new AbortController();
    const leave = () => gone.abort();
    // Most clients end their side when they do not want an image any more, and few others do.
    req.socket.once('end', leave).once('close', leave);
    try {
      const admit = () => countIn(limits.bucket('processing'), req, res);
      return await images.render({ fileId: file.id, blob, rendering, admit, gone: gone.signal });
    } finally {
      req.socket.off('end', leave).off('close', leave);
    }
  }

  return [
    route({
      method: 'get',
      path: '/api/files/:id/image',
      access: 'read',
      link: 'resource',
      limit: 'downloads',
      summary:
        'An image in another size or format, never enlarged. Sizes and qualities are rounded up to those that the server ' +
        'offers, unless a signed address covers them. The first request renders it and counts as `processing` too',
      params: byId,
      query: imageQuery,
      answers: BYTES,
      problems: [...BYTES_PROBLEMS, ...FAULTS, 'unsupported_media_type', 'parser_died'],
      async handle({ params, query, own, req, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        requireImage(file);
        if (query.format === 'auto') res.vary('Accept');
        const rendering = toRendering(query, req.get('Accept'), imageSizes, req.hasFixedParameters ?? false);
        try {
          const kept = await findVariant(database, file.id, keyOf(rendering));
          const { body, contentType, etag, createdAt } = kept ?? (await render(req, res, file, rendering));
          res.setHeader('Cache-Control', 'private, max-age=3600');
          await sendContent(req, res, storage, {
            body,
            type: contentType,
            disposition: 'inline',
            etag,
            modified: createdAt,
          });
        } catch (error) {
          if (!(error instanceof Abandoned)) throw error;
          res.destroy();
          return NOBODY;
        }
      },
    }),
    route({
      method: 'post',
      path: '/api/files/:id/image/link',
      access: 'read',
      limit: 'status',
      summary: 'A signed address of an image in exactly this size and quality',
      params: byId,
      body: imageBody,
      answers: { 200: imageLink },
      problems: ['infected', 'not_ready', 'wrong_state'],
      async handle({ params, body, own, res }) {
        const file = own(await getFile(database, params.id));
        requireClean(file);
        requireImage(file);
        res.setHeader('Cache-Control', 'no-store');
        const parameters = Object.entries(body).map(([name, value]) => [name, String(value)]);
        return signFixedLink(`/api/files/${file.id}/image`, Object.fromEntries(parameters), keys.link);
      },
    }),
  ];
}

/** @throws {AppError} unsupported_media_type */
function requireImage({ detectedType }: File): void {
  if (isRendered(detectedType)) return;
  throw new AppError('unsupported_media_type', {
    detail: `Only images made of pixels are rendered; this file is ${detectedType ?? 'of no known type'}`,
  });
}

/** @throws {AppError} if the worker has already found that the image cannot be decoded */
function requireDecoded({ steps, warnings }: File): void {
  if (steps.thumbnails?.state !== 'failed') return;
  const fault = warnings.find(({ step }) => step === 'thumbnails');
  // Parsers that died at each attempt of the worker would die here too.
  const found = fault?.code === 'parser_died' ? 'unreadable' : fault?.code;
  const code = FAULTS.find((one) => one === found);
  if (code) throw new AppError(code, { detail: fault?.detail ?? '' });
}
