import { parse as parseCookies } from 'cookie';
import { type Express, type Request, type RequestHandler, Router } from 'express';
import type { DataSource } from 'typeorm';
import { AppError } from '../core/errors.js';
import { appendEvents } from '../core/events/append.js';
import type { ProcessingQueue } from '../core/queue/queue.js';
import type { Authenticate } from './auth/authenticate.js';
import { actorOf } from './auth/principal.js';
import { requireKnownOrigin } from './http/cors.js';
import { boardPolicy } from './http/security-headers.js';

export const BOARD_PATH = '/admin/queues';

/** Set when an admin signs in: a link opens the board, and a browser sends no header with it. */
export const BOARD_COOKIE = 'landfall_board';

/** Limit for the path in the event log. It names queue, job and action, but a client may send anything. */
const MAX_PATH = 200;

/** The longest time in which the board may answer. */
const ANSWER_MS = 5_000;

function queueAway(): AppError {
  return new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
}

interface BoardDeps {
  publicUrl: string | undefined;
  database: DataSource;
  queue: ProcessingQueue;
}

/** Bull Board, for admins only. The event log records their changes. */
export function createBoard({ database, queue, publicUrl }: BoardDeps, authenticate: Authenticate): Router {
  const adminOnly: RequestHandler = async (req, res, next) => {
    const boardCookie = parseCookies(req.get('Cookie') ?? '')[BOARD_COOKIE];
    if (boardCookie && !req.get('Authorization')) {
      requireKnownOrigin(req, { publicUrl }, { action: 'admin' });
    }
    await authenticate(req, 'admin', { boardCookie });
    // The board would wait for an unreachable queue, and might be the first to notice that it is away.
    if (!queue.reachable) throw queueAway();
    if (!['GET', 'HEAD'].includes(req.method)) await noteChange(database, req);
    const timer = setTimeout(() => {
      if (!res.headersSent) next(queueAway());
    }, ANSWER_MS);
    res.once('close', () => clearTimeout(timer));
    next();
  };
  let board: Promise<Express> | undefined;
  const serveBoard: RequestHandler = async (req, res, next) => {
    board ??= loadBoard(queue);
    (await board)(req, res, next);
  };
  return Router().use(BOARD_PATH, boardPolicy, adminOnly, serveBoard);
}

/** Loads Bull Board. Called for the first admin who opens it, because few servers need it. */
async function loadBoard(queue: ProcessingQueue): Promise<Express> {
  const { createBullBoard } = await import('@bull-board/api');
  const { BullMQAdapter } = await import('@bull-board/api/bullMQAdapter');
  const { ExpressAdapter } = await import('@bull-board/express');
  const adapter = new ExpressAdapter();
  adapter.setBasePath(BOARD_PATH);
  createBullBoard({
    queues: [new BullMQAdapter(queue.bull)],
    serverAdapter: adapter,
    options: { uiConfig: { boardTitle: 'Landfall' } },
  });
  const board: Express = adapter.getRouter();
  board.disable('x-powered-by');
  return board;
}

/** Records a change before the board makes it, whatever its result. */
async function noteChange(database: DataSource, req: Request): Promise<void> {
  const data = { method: req.method, path: req.path.slice(0, MAX_PATH) };
  await appendEvents(database.manager, [
    { type: 'queue.changed', subjectId: null, ownerId: null, data, actor: actorOf(req) },
  ]);
}
