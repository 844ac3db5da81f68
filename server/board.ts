import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { parse as parseCookies } from 'cookie';
import { type Express, type RequestHandler, Router } from 'express';
import { AppError } from '../core/errors.js';
import type { ProcessingQueue } from '../core/queue.js';
import type { Authenticate } from './auth/authenticate.js';
import type { Keys } from './auth/keys.js';
import { verifyToken } from './auth/tokens.js';
import { type Origins, requireKnownOrigin } from './cors.js';
import { boardPolicy } from './security-headers.js';

export const BOARD_PATH = '/admin/queues';

/** Set when an admin signs in: the browser opens the board by following a link, without a header. */
export const BOARD_COOKIE = 'landfall_board';

/** How long the board may take to answer. */
const ANSWER_MS = 5_000;

function queueAway(): AppError {
  return new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
}

/** Bull Board, for admins only. */
export function createBoard(
  queue: ProcessingQueue,
  keys: Keys,
  authenticate: Authenticate,
  origins: Origins,
): Router {
  const adapter = new ExpressAdapter();
  adapter.setBasePath(BOARD_PATH);
  createBullBoard({
    queues: [new BullMQAdapter(queue.bull)],
    serverAdapter: adapter,
    options: { uiConfig: { boardTitle: 'Landfall' } },
  });

  const adminOnly: RequestHandler = async (req, res, next) => {
    const cookie = parseCookies(req.get('Cookie') ?? '')[BOARD_COOKIE];
    if (!cookie || req.get('Authorization')) await authenticate(req, 'admin');
    else {
      requireKnownOrigin(req, origins);
      if (verifyToken(cookie, keys.board).role !== 'admin') throw new AppError('forbidden');
    }
    // It would wait for the queue as long as that is away, and may be the first to notice that.
    if (!queue.reachable) throw queueAway();
    const timer = setTimeout(() => {
      if (!res.headersSent) next(queueAway());
    }, ANSWER_MS);
    res.once('close', () => clearTimeout(timer));
    next();
  };
  const board: Express = adapter.getRouter();
  board.disable('x-powered-by');
  return Router().use(BOARD_PATH, boardPolicy, adminOnly, board);
}
