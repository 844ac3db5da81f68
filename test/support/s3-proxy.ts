/**
 * An HTTP proxy before S3 that counts requests and makes them go wrong. It passes every header on as it came, Host
 * included, because signatures cover it; bodies stream through in both directions.
 *
 * A rule picks requests and says how each goes wrong. The first rule that matches a request decides. 'before'
 * means that S3 has not seen the request; 'after' that S3 has done it, but the client has no answer yet.
 */
import { once } from 'node:events';
import {
  Agent,
  type ClientRequest,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
  request as sendRequest,
} from 'node:http';
import type { Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { nameOperation, type S3Operation } from './s3-operation.js';
import { freePort } from './services/port.js';

interface S3Request {
  method: string;
  operation: S3Operation;
  /** Empty for a request about the bucket. */
  key: string;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  /** The status that the client was sent; undefined before that, and when the client was cut off. */
  status?: number;
}

type Place = 'before' | 'after';

type Fault =
  /** Answers with this status; S3's usual error code for it unless one is named. */
  | { fail: number; code?: string; at?: Place }
  /** Delays the request by so many milliseconds. */
  | { delay: number; at?: Place }
  /** Cuts the client off; 'body' in the middle of its body, 'answer' in the middle of the answer. */
  | { cut: Place | 'body' | 'answer' }
  /** Cuts the client off after so many bytes of a longer answer. */
  | { cutAfter: number }
  /** Neither answers nor cuts, until the rule is removed. */
  | { hold: Place };

/**
 * Picks the requests of one operation, or those that a predicate accepts. `index` counts the requests of the
 * same operation since the rule was set, from 0.
 */
type When = S3Operation | ((request: S3Request, index: number) => boolean);

export interface S3Proxy {
  url: string;
  /** All requests so far, oldest first. */
  requests: S3Request[];
  count(operation?: S3Operation): number;
  /** Sets a rule. The function it returns removes the rule and lets go the requests that it holds. */
  rule(when: When, fault: Fault): () => void;
  /** Holds the first request that matches; `reached` resolves when it is held, `open` lets it go on. */
  pauseAt(when: When, place: Place): { reached: Promise<S3Request>; open: () => void };
  /** S3 is gone: open connections are cut, new ones refused. */
  away(): Promise<void>;
  /** S3 is there again, at the same address. */
  back(): Promise<void>;
  close(): Promise<void>;
}

interface Rule {
  decide(request: S3Request): Fault | undefined;
  removed: Promise<void>;
  onHeld(request: S3Request): void;
}

type Decision = { fault: Fault; rule: Rule } | undefined;

/** The state of one request on its way through the proxy. */
interface Exchange {
  request: S3Request;
  decision: Decision;
  req: IncomingMessage;
  res: ServerResponse;
  /** The client's socket. Node detaches it from the request once the request is answered. */
  socket: Socket;
}

const CODES: Record<number, string> = {
  400: 'InvalidRequest',
  403: 'AccessDenied',
  404: 'NoSuchKey',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'SlowDown',
};

/** Starts a proxy before the S3 server at `target`, such as TEST_S3_ENDPOINT. */
export async function startS3Proxy(target: string): Promise<S3Proxy> {
  const { hostname, port: targetPort } = new URL(target);
  // The proxy closes idle connections before S3 does, because a close by S3 would look like a fault.
  const agent = new Agent({ keepAlive: true, timeout: 10_000 });
  const requests: S3Request[] = [];
  const rules = new Set<Rule>();

  const connect = (req: IncomingMessage) =>
    sendRequest({
      hostname,
      port: targetPort,
      agent,
      method: req.method ?? 'GET',
      path: req.url ?? '/',
      headers: req.rawHeaders as unknown as IncomingHttpHeaders,
      setHost: false,
    });

  const handle = (req: IncomingMessage, res: ServerResponse) => {
    const request = describe(req);
    requests.push(request);
    res.on('error', () => {});
    req.on('error', () => {});
    const { socket } = req;
    const exchange = { request, decision: decide(rules, request), req, res, socket };
    pass(exchange, () => connect(req)).catch(() => socket.destroy());
  };

  const port = await freePort();
  const server = createServer(handle);
  // A client that waits for "100 Continue" gets it from S3.
  server.on('checkContinue', handle);
  // The proxy has no time limits of its own: the tests control time.
  server.keepAliveTimeout = 0;
  server.requestTimeout = 0;
  const back = async () => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const away = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  const rule = (when: When, fault: Fault, onHeld: Rule['onHeld'] = () => {}) => {
    const { created, remove } = createRule(when, fault, onHeld);
    rules.add(created);
    return () => {
      rules.delete(created);
      remove();
    };
  };
  await back();
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    count: (operation) => requests.filter((r) => !operation || r.operation === operation).length,
    rule: (when, fault) => rule(when, fault),
    pauseAt(when, place) {
      let open = () => {};
      let taken = false;
      const matches = matcher(when);
      const reached = new Promise<S3Request>((resolve) => {
        const first = (request: S3Request) => {
          if (taken || !matches(request)) return false;
          taken = true;
          return true;
        };
        open = rule(first, { hold: place }, resolve);
      });
      return { reached, open };
    },
    away,
    back,
    async close() {
      await away();
      agent.destroy();
    },
  };
}

function describe(req: IncomingMessage): S3Request {
  const { pathname, searchParams: query } = new URL(req.url ?? '/', 'http://proxy');
  const [, , ...path] = pathname.split('/');
  const key = decodeURIComponent(path.join('/'));
  const { method = '', headers } = req;
  return { method, operation: nameOperation(method, key, query, headers), key, query, headers };
}

/** Turns a rule's `when` into a predicate that counts the requests of each operation. */
function matcher(when: When): (request: S3Request) => boolean {
  const seen = new Map<S3Operation, number>();
  return (request) => {
    const index = seen.get(request.operation) ?? 0;
    seen.set(request.operation, index + 1);
    return typeof when === 'string' ? request.operation === when : when(request, index);
  };
}

function createRule(when: When, fault: Fault, onHeld: Rule['onHeld']) {
  let remove = () => {};
  const removed = new Promise<void>((resolve) => {
    remove = resolve;
  });
  const matches = matcher(when);
  const created: Rule = {
    decide: (request) => (matches(request) ? fault : undefined),
    removed,
    onHeld,
  };
  return { created, remove };
}

/** Every rule sees every request, so that its count is right. */
function decide(rules: Set<Rule>, request: S3Request): Decision {
  const decisions = [...rules].map((rule) => ({ rule, fault: rule.decide(request) }));
  return decisions.find((decision) => decision.fault) as Decision;
}

async function pass(exchange: Exchange, connect: () => ClientRequest): Promise<void> {
  const { request, decision, req, res, socket } = exchange;
  if (await intervene('before', exchange)) return;
  // A client that is gone by now counts as one that never sent its request.
  if (socket.destroyed || socket.readableEnded) return;

  const outward = connect();
  const answered = once(outward, 'response') as Promise<[IncomingMessage]>;
  answered.catch(() => {});
  outward.on('error', () => {});
  outward.on('continue', () => res.writeContinue());
  req.on('close', () => {
    if (!req.complete) outward.destroy();
  });
  const cut = decision && 'cut' in decision.fault ? decision.fault.cut : undefined;
  if (cut === 'body') {
    const half = Math.max(1, Math.floor(Number(req.headers['content-length'] ?? 2) / 2));
    await sendPart(req, outward, half);
    outward.destroy();
    socket.destroy();
    return;
  }
  req.pipe(outward);

  const [answer] = await answered;
  // An answer may begin before S3 is done, so with a rule the proxy reads it whole, unless it carries a long
  // object.
  const isObject = request.operation === 'GetObject';
  const body = isObject || !decision ? answer : await buffer(answer);
  if (await intervene('after', exchange)) return;

  request.status = answer.statusCode ?? 0;
  res.sendDate = false;
  res.writeHead(request.status, answer.rawHeaders);
  const length = Number(answer.headers['content-length'] ?? 2);
  const cutAfter = decision && 'cutAfter' in decision.fault ? decision.fault.cutAfter : length;
  if (cut === 'answer' || cutAfter < length) {
    const most = cut === 'answer' ? Math.max(1, Math.floor(length / 2)) : cutAfter;
    await sendPart(Buffer.isBuffer(body) ? [body] : body, res, most);
    answer.destroy();
    socket.destroy();
  } else if (Buffer.isBuffer(body)) {
    res.end(body);
  } else {
    await pipeline(body, res);
  }
}

/** Applies the rule's fault at this place. @returns whether that ends the exchange */
async function intervene(place: Place, { request, decision, res, socket }: Exchange): Promise<boolean> {
  if (!decision) return false;
  const { fault, rule } = decision;
  if ('cutAfter' in fault) return false;
  if ('cut' in fault) {
    if (fault.cut === place) socket.destroy();
    return fault.cut === place;
  }
  if ('hold' in fault) {
    if (fault.hold !== place) return false;
    rule.onHeld(request);
    await rule.removed;
    // News of a client that was killed meanwhile may still be on its way.
    await sleep(20);
    return false;
  }
  if ((fault.at ?? 'before') !== place) return false;
  if ('delay' in fault) {
    await sleep(fault.delay);
    return false;
  }
  request.status = fault.fail;
  const code = fault.code ?? CODES[fault.fail] ?? 'InternalError';
  res.writeHead(fault.fail, { 'Content-Type': 'application/xml' });
  res.end(
    request.method === 'HEAD'
      ? ''
      : `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code></Error>`,
  );
  return true;
}

/** Forwards the first bytes of a body and waits until they are written. */
async function sendPart(
  from: AsyncIterable<Buffer> | Iterable<Buffer>,
  to: ClientRequest | ServerResponse,
  bytes: number,
): Promise<void> {
  let rest = bytes;
  for await (const chunk of from) {
    const part = chunk.subarray(0, rest);
    await new Promise((resolve) => to.write(part, resolve));
    rest -= part.length;
    if (rest === 0) return;
  }
}
