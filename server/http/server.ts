import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http';
import { createServer as createTlsServer, type Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import { AppError, hasCode } from '../../core/errors.js';
import { problemJson } from './problem.js';
import type { Certificate } from './tls.js';

/** All in milliseconds. */
interface Times {
  /** Limit for the head of a request, from its first byte or from the opening of the connection. */
  headers: number;
  /** How often that limit is checked. */
  checkHeadersEvery: number;
  /** A connection is closed after this long without any traffic in the middle of a request. */
  idle: number;
  /** A connection is closed after this long between two requests; proxies close theirs earlier. */
  keepAlive: number;
}

const TIMES: Times = { headers: 20_000, checkHeadersEvery: 5_000, idle: 120_000, keepAlive: 65_000 };

/** Headers of answers that do not come from the application. */
const PROBLEM_HEADERS = {
  Connection: 'close',
  'Content-Type': 'application/problem+json; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
};

/** A client of HTTP/2 falls back to HTTP/1.1. As with plain HTTP, it may end its side before the answer. */
const TLS = { ALPNProtocols: ['http/1.1'], allowHalfOpen: true };

/** Bytes of the request line and all headers. */
const MAX_HEADER_SIZE = 16 * 1024;

/**
 * Creates the HTTP server; it does not listen yet. A body may take hours as long as bytes keep coming. A
 * reader of a body that must be short sets its own time limit.
 */
export function createHttpServer(app: RequestListener, times = TIMES): Server {
  return serveOn(createServer(optionsFor(times)), app, times);
}

/** Like createHttpServer(), with encryption. */
export function createHttpsServer(
  app: RequestListener,
  certificate: Certificate,
  times = TIMES,
): HttpsServer {
  const options = { ...optionsFor(times), ...certificate, ...TLS, handshakeTimeout: times.headers };
  return serveOn(createTlsServer(options), app, times);
}

function optionsFor(times: Times): ServerOptions {
  return {
    requestTimeout: 0,
    headersTimeout: times.headers,
    connectionsCheckingInterval: times.checkHeadersEvery,
    keepAliveTimeout: times.keepAlive,
    maxHeaderSize: MAX_HEADER_SIZE,
    // See refuseOddities() for the reason.
    requireHostHeader: false,
  };
}

function serveOn<S extends Server | HttpsServer>(http: S, app: RequestListener, times: Times): S {
  /** The answer to the newest request on each connection. */
  const answers = new WeakMap<object, ServerResponse>();
  const handle: RequestListener = (req, res) => {
    answers.set(req.socket, res);
    // An absolute target that is not a valid URL would get past all routes to an error page of Express.
    if (/^[/*]/.test(req.url ?? '') || URL.canParse(req.url ?? '')) return app(req, res);
    const error = new AppError('invalid_request', { detail: 'The target of the request is not a valid URL' });
    res.statusCode = error.status;
    res.setHeaders(new Map(Object.entries(PROBLEM_HEADERS)));
    res.end(problemJson(error));
  };
  http.on('request', handle);
  // A client that asks first need not send a refused body. The body's reader resumes the request.
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
  // A client may end its side after the request and wait for the answer. Node has no public option for that.
  Object.assign(http, { httpAllowHalfOpen: true });
  http.on('clientError', (error: Error, socket: Socket) => {
    // Nothing can be said to a client with which no encryption was agreed.
    if ('code' in error && /^ERR_(SSL|TLS)_/.test(String(error.code))) {
      socket.destroy();
      return;
    }
    const answer = answers.get(socket);
    // The client would take a second answer for the answer to its next request.
    const isAnswered = answer?.headersSent && !(answer.writableFinished && answer.req.complete);
    if (answer && !answer.headersSent && hasCode(error, 'HPE_INVALID_EOF_STATE')) {
      // The client ended its side within a body. The body's reader notices that after the last byte.
      answer.setHeader('Connection', 'close');
      return;
    }
    if (socket.writable && !isAnswered && !hasCode(error, 'ECONNRESET')) socket.write(toAnswer(error));
    socket.destroySoon();
  });
  return http;
}

/** The answer to bytes that never became a request. */
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
