import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http';
import type { Socket } from 'node:net';
import { AppError, hasCode } from '../../core/errors.js';
import { problemJson } from './problem.js';

/** All in milliseconds. */
interface Times {
  /** Until the head of a request is there, from its first byte or from the connection on. */
  headers: number;
  /** How often that is looked at. */
  checkHeadersEvery: number;
  /** A connection on which nothing moves for this long in the middle of a request is closed. */
  idle: number;
  /** And this long between two requests: longer than proxies keep theirs. */
  keepAlive: number;
}

const TIMES: Times = { headers: 20_000, checkHeadersEvery: 5_000, idle: 120_000, keepAlive: 65_000 };

/** Of answers that the application has no part in. */
const PROBLEM_HEADERS = {
  Connection: 'close',
  'Content-Type': 'application/problem+json; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
};

/** Bytes of the request line and all headers. */
const MAX_HEADER_SIZE = 16 * 1024;

/**
 * The HTTP server, not listening yet. A body may take hours: what counts is that it moves. Who reads one that cannot be
 * long sets a time limit of its own.
 */
export function createHttpServer(app: RequestListener, times = TIMES): Server {
  /** The newest request's answer on each connection. */
  const answers = new WeakMap<object, ServerResponse>();
  const http = createServer({
    requestTimeout: 0,
    headersTimeout: times.headers,
    connectionsCheckingInterval: times.checkHeadersEvery,
    keepAliveTimeout: times.keepAlive,
    maxHeaderSize: MAX_HEADER_SIZE,
    // refuseOddities() says why.
    requireHostHeader: false,
  });
  const handle: RequestListener = (req, res) => {
    answers.set(req.socket, res);
    // A whole address that is none would get past all routes to a page of Express' own.
    if (/^[/*]/.test(req.url ?? '') || URL.canParse(req.url ?? '')) return app(req, res);
    const error = new AppError('invalid_request', { detail: 'The target of the request is no address' });
    res.statusCode = error.status;
    res.setHeaders(new Map(Object.entries(PROBLEM_HEADERS)));
    res.end(problemJson(error));
  };
  http.on('request', handle);
  // Who asks before sending a body need not send one that is refused. Whoever wants it makes it flow.
  http.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => {
    req.once('resume', () => {
      if (!res.headersSent) res.writeContinue();
    });
    handle(req, res);
  });
  // "A server that receives an Expect field value containing a member other than 100-continue MAY respond with a 417"
  // (RFC 9110, 10.1.1), and we need not.
  http.on('checkExpectation', handle);
  http.setTimeout(times.idle);
  // A client that has sent its request may end its side and wait for the answer. Node has no option for that, only this.
  Object.assign(http, { httpAllowHalfOpen: true });
  http.on('clientError', (error: Error, socket: Socket) => {
    const answer = answers.get(socket);
    // The request has its answer, or is getting it: a second one would be taken for that of the next request.
    const isAnswered = answer?.headersSent && !(answer.writableFinished && answer.req.complete);
    if (answer && !answer.headersSent && hasCode(error, 'HPE_INVALID_EOF_STATE')) {
      // The client has ended its side in the middle of a body. Its reader finds that out behind all that has come.
      answer.setHeader('Connection', 'close');
      return;
    }
    if (socket.writable && !isAnswered && !hasCode(error, 'ECONNRESET')) socket.write(toAnswer(error));
    socket.destroySoon();
  });
  return http;
}

/** For what never became a request. */
function toAnswer(cause: Error): string {
  const error = errorOfConnection(cause);
  const body = problemJson(error);
  return [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    ...Object.entries(PROBLEM_HEADERS).map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${Buffer.byteLength(body)}`,
    '',
    body,
  ].join('\r\n');
}

function errorOfConnection(cause: Error): AppError {
  if (hasCode(cause, 'HPE_HEADER_OVERFLOW')) {
    return new AppError('headers_too_large', {
      detail: `All headers together must have at most ${MAX_HEADER_SIZE} bytes`,
      cause,
    });
  }
  if (hasCode(cause, 'ERR_HTTP_REQUEST_TIMEOUT')) {
    return new AppError('request_timeout', { detail: 'The headers did not arrive in time', cause });
  }
  return new AppError('invalid_request', { detail: 'This is not valid HTTP/1.1', cause });
}
