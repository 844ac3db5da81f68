import { readdirSync } from 'node:fs';
import { extname, join } from 'node:path';
import express, { type RequestHandler, Router } from 'express';
import type { Storage } from '../../core/storage/storage.js';
import { ANSWER_CODINGS, type AnswerCoding, chooseCoding } from './answer-coding.js';
import { pagePolicy } from './security-headers.js';

/**
 * Serves the page, and the two pages that show the interface. Built assets carry a hash in their name and never change;
 * browsers revalidate the pages themselves each time.
 * @param folder of the built pages
 */
export function servePage(folder: string, storage: Storage): Router {
  const assets = join(folder, 'assets');
  const files = express.static(folder, {
    extensions: [PAGE.slice(1)],
    setHeaders(res, path) {
      const isAsset = path.startsWith(assets);
      res.setHeader('Cache-Control', isAsset ? 'public, max-age=31536000, immutable' : 'no-cache');
    },
  });
  const findOrigin = () => findContentOrigin(storage);
  return Router()
    .get(['/', '/index{.html}', '/docs{.html}'], pagePolicy(findOrigin))
    .get('/redoc{.html}', pagePolicy(findOrigin, { inlineStyles: true }))
    .get('/{*path}', chooseCopy(folder))
    .use(files);
}

/** The ending of pages, which addresses leave out. */
const PAGE = '.html';

/** build.js writes the copies. */
const ENDINGS: Record<AnswerCoding, string> = { br: '.br', gzip: '.gz' };

/**
 * Lets the handler of static files send the compressed copy of a file instead. It sees a request for the copy, so length,
 * validators and ranges are those of the copy, as RFC 9110 (8.4) demands: a coding is part of the representation.
 */
function chooseCopy(folder: string): RequestHandler {
  const names = new Set(readdirSync(folder, { recursive: true }).map((name) => `/${name}`));
  return (req, res, next) => {
    const name = req.path === '/' ? '/index' : req.path;
    const path = extname(name) ? name : name + PAGE;
    const available = ANSWER_CODINGS.filter((coding) => names.has(path + ENDINGS[coding]));
    const coding = available.length > 0 ? chooseCoding(req, res, available) : undefined;
    if (coding) {
      // The name of the copy would say another type.
      res.type(extname(path)).setHeader('Content-Encoding', coding);
      req.url = path + ENDINGS[coding];
    }
    next();
  };
}

/** The origin of redirected downloads, taken from a signed URL. Undefined: this server sends the content. */
async function findContentOrigin({ blobs }: Storage): Promise<string | undefined> {
  const link = await blobs.link?.('any', { contentType: 'any/type', contentDisposition: 'inline' });
  return link && new URL(link).origin;
}
