import { randomUUID } from 'node:crypto';
import { ServerResponse } from 'node:http';
import type { Application, Request, RequestHandler } from 'express';
import { AppError } from '../../core/errors.js';
import type { Logger } from '../../core/log.js';

declare global {
  namespace Express {
    interface Request {
      /** Id of this request, generated or of a trusted proxy; the answer, its events and its jobs bear it too. */
      id: string;
      /** The upload that the request is about; its file will have the same id. */
      uploadId?: string | undefined;
    }
  }
}

declare module 'node:http' {
  interface IncomingMessage {
    /** Milliseconds for which the body was read; see request-body.ts. */
    bodyMs?: number;
  }
  interface ServerResponse {
    /** When the head of the answer was written, by performance.now(). */
    answeredAt?: number;
  }
}

/** Characters of a path that are logged. */
const MAX_PATH = 300;

interface RequestLogOptions {
  log: Logger;
  /** From how many milliseconds on a request is a slow one; 0: never. */
  slowMs: number;
}

/**
 * Gives each request an id and logs its outcome. Query strings may contain signatures and are not logged.
 *
 * A request is slow if its client has waited long for this server: from the head of the request to the head of the
 * answer, without the time in which the body came. So neither a slow client nor a long download is slow. The time in which
 * a body is held back by a store that is slower than its client does not count either.
 * @param app its answers note when their heads are written
 */
export function requestLog(app: Application, { log, slowMs }: RequestLogOptions): RequestHandler {
  noteAnswers(app);
  return (req, res, next) => {
    req.id = idOf(req);
    res.setHeader('X-Request-Id', req.id);
    const { method, path } = req;
    const started = performance.now();
    res.once('close', () => {
      const ended = performance.now();
      const serverMs = (res.answeredAt ?? ended) - started - (req.bodyMs ?? 0);
      const isSlow = slowMs > 0 && serverMs >= slowMs;
      const line = {
        requestId: req.id,
        method,
        path: path.length > MAX_PATH ? `${path.slice(0, MAX_PATH)}…` : path,
        uploadId: req.uploadId,
        userId: req.principal?.userId,
        status: res.statusCode,
        ms: Math.round(ended - started),
        aborted: res.writableFinished ? undefined : true,
      };
      if (!isSlow) log.info(line, 'request');
      else log.warn({ ...line, route: req.route?.path, serverMs: Math.round(serverMs) }, 'slow request');
    });
    next();
  };
}

/** Anybody may send an id; only that of a trusted proxy is believed, so that no client uses the id of another request. */
function idOf(req: Request): string {
  const given = req.headers['x-request-id'];
  if (typeof given !== 'string' || !/^[\w.-]{1,128}$/.test(given)) return randomUUID();
  return req.app.get('trust proxy fn')(req.socket.remoteAddress, 0) ? given : randomUUID();
}

/** Node calls writeHead() of every answer once, also of those whose handler does not. */
function noteAnswers(app: Application): void {
  // Express documents it, its types do not.
  const { response } = app as unknown as { response: ServerResponse };
  response.writeHead = function writeHead(this: ServerResponse, ...head: unknown[]) {
    this.answeredAt ??= performance.now();
    return Reflect.apply(ServerResponse.prototype.writeHead, this, head);
  } as ServerResponse['writeHead'];
}

/** More than any client sends; Node itself silently drops headers beyond 2000. */
const MAX_HEADERS = 100;

/** Refuses requests that no ordinary client sends and that would cause trouble later. */
export const refuseOddities: RequestHandler = (req, _res, next) => {
  if (req.rawHeaders.length > 2 * MAX_HEADERS) {
    throw new AppError('headers_too_large', { detail: `At most ${MAX_HEADERS} headers are taken` });
  }
  // "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a
  // Host header field and to any request message that contains more than one" (RFC 9112, 3.2): a proxy may
  // have used the other one.
  const hosts = req.rawHeaders.filter((text, index) => index % 2 === 0 && text.toLowerCase() === 'host');
  if (hosts.length > 1 || (hosts.length === 0 && req.httpVersion === '1.1')) {
    throw new AppError('invalid_request', { detail: 'Send one Host' });
  }
  // PostgreSQL cannot store this character.
  const query = req.url.indexOf('?');
  if (query >= 0 && req.url.includes('%00', query)) {
    throw new AppError('invalid_request', { detail: 'The query must not hold the character U+0000' });
  }
  next();
};
