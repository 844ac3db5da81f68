import { existsSync } from 'node:fs';
import { join } from 'node:path';
import express, { type Express, type RequestHandler } from 'express';
import type { Config } from '../core/config.js';
import { createAuthenticate } from './auth/authenticate.js';
import type { Keys } from './auth/keys.js';
import { createBoard } from './board.js';
import { notFound, problemHandler } from './problem.js';
import { cors, preflight, requestLog } from './requests.js';
import { authRoutes } from './routes/auth.js';
import { contentRoutes } from './routes/content.js';
import { fileRoutes } from './routes/files.js';
import { healthRoutes } from './routes/health.js';
import { serve } from './routes/route.js';
import { uploadRoutes } from './routes/uploads.js';
import { createTusHandler, type TusDeps } from './tus.js';
import { tusPreflight } from './tus-preflight.js';

export interface AppDeps extends TusDeps {
  trustProxy: Config['trustProxy'];
  keys: Keys;
  accessTokenMinutes: number;
  /** Folder of the built page. */
  pageDir: string;
  isDraining: () => boolean;
}

const MAX_JSON_BODY = '100kb';

const PAGE_CSP = [
  "default-src 'self'",
  "img-src 'self' blob: data:",
  "media-src 'self' blob:",
  "style-src 'self' 'unsafe-inline'",
  "worker-src 'self' blob:",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Puts the HTTP application together. Does not listen. */
export function buildApp(deps: AppDeps): Express {
  const app = express();
  app.disable('x-powered-by');
  // ETags are set where they mean something; hashing every JSON answer is work for nothing.
  app.disable('etag');
  app.set('trust proxy', deps.trustProxy);

  const authenticate = createAuthenticate(deps.keys);
  const asUser: RequestHandler = (req, _res, next) => {
    authenticate(req, req.method === 'OPTIONS' ? 'public' : 'user');
    next();
  };

  app.use(requestLog(deps.log));
  app.use(['/uploads', '/api'], cors(deps.corsOrigins));
  app.all('/uploads{/*path}', tusPreflight, asUser, createTusHandler(deps));
  app.use('/api', preflight, express.json({ limit: MAX_JSON_BODY }));
  app.use(
    serve(
      [
        ...authRoutes(deps),
        ...fileRoutes(deps),
        ...contentRoutes(deps),
        ...uploadRoutes(deps),
        ...healthRoutes(deps),
      ],
      authenticate,
    ),
  );
  app.use(createBoard(deps.queue, deps.keys, authenticate));
  if (existsSync(deps.pageDir)) app.use(page(deps.pageDir));
  app.use(notFound);
  app.use(problemHandler(deps.log));
  return app;
}

/** Built assets carry a hash in their name and never change; the page itself is asked for anew each time. */
function page(folder: string): RequestHandler {
  const assets = join(folder, 'assets');
  return express.static(folder, {
    setHeaders(res, path) {
      res.setHeader('X-Content-Type-Options', 'nosniff');
      if (path.startsWith(assets)) {
        res.setHeader('Cache-Control', 'public, max-age=31536000, immutable');
      } else {
        res.setHeader('Cache-Control', 'no-cache');
        res.setHeader('Content-Security-Policy', PAGE_CSP);
      }
    },
  });
}
