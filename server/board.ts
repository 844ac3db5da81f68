import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { parse as parseCookies } from 'cookie';
import { type Request, type RequestHandler, Router } from 'express';
import type { DataSource } from 'typeorm';
import { AppError } from '../core/errors.js';
import { appendEvents } from '../core/events.js';
import type { ProcessingQueue } from '../core/queue.js';
import type { Authenticate } from './auth/authenticate.js';
import { actorOf } from './auth/principal.js';

export const BOARD_PATH = '/admin/queues';

/** Set when an admin signs in: the browser opens the board by following a link, without a header. */
export const BOARD_COOKIE = 'landfall_board';

const BOARD_CSP = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:";

/** Of the path of a change, in the event log: queue, job and what is to be done, and more if somebody makes it up. */
const MAX_PATH = 200;

/** How long the board may take to answer. */
const ANSWER_MS = 5_000;

function queueAway(): AppError {
  return new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
}

interface BoardDeps {
  database: DataSource;
  queue: ProcessingQueue;
}

/** Bull Board, for admins only. What they do with it is in the event log. */
export function createBoard({ database, queue }: BoardDeps, authenticate: Authenticate): Router {
  const adapter = new ExpressAdapter();
  adapter.setBasePath(BOARD_PATH);
  createBullBoard({
    queues: [new BullMQAdapter(queue.bull)],
    serverAdapter: adapter,
    options: { uiConfig: { boardTitle: 'Landfall' } },
  });

  const adminOnly: RequestHandler = async (req, res, next) => {
    // The board's page wants a font from elsewhere and carries inline script.
    res.setHeader('Content-Security-Policy', BOARD_CSP);
    await authenticate(req, 'admin', { boardCookie: parseCookies(req.get('Cookie') ?? '')[BOARD_COOKIE] });
    // It would wait for the queue as long as that is away, and may be the first to notice that.
    if (!queue.reachable) throw queueAway();
    if (!['GET', 'HEAD'].includes(req.method)) await noteChange(database, req);
    const timer = setTimeout(() => {
      if (!res.headersSent) next(queueAway());
    }, ANSWER_MS);
    res.once('close', () => clearTimeout(timer));
    next();
  };
  return Router().use(BOARD_PATH, adminOnly, adapter.getRouter());
}

/** Before the board does it: how that went is the board's affair. */
async function noteChange(database: DataSource, req: Request): Promise<void> {
  const data = { method: req.method, path: req.path.slice(0, MAX_PATH) };
  await appendEvents(database.manager, [
    { type: 'queue.changed', subjectId: null, ownerId: null, data, actor: actorOf(req) },
  ]);
}
