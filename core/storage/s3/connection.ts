import { createHash } from 'node:crypto';
import http, { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import https from 'node:https';
import { setTimeout as pause } from 'node:timers/promises';
import { S3Client } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import type { S3Config } from '../../config.js';
import { AppError } from '../../errors.js';

/*
 * The way to S3. Whatever carries the bytes of uploads (UploadPart, PutObject) is sent by a sender of our own: the AWS
 * SDK would hash and copy them on the way, which costs more than all the rest of an upload. Everything else goes
 * through the SDK. Every call has an end: it connects, answers and moves in time or is tried again, a bounded number of
 * times.
 */

const CONNECT_MS = 3_000;

/** A socket on which nothing moves; as long as the server waits for its own clients, who may hold a download. */
const IDLE_MS = 120_000;

/** From the request to the head of the answer, for what the SDK sends. */
const ANSWER_MS = 15_000;

const SDK_ATTEMPTS = 4;

/** Idle time of what we send ourselves: there the store is the only one to wait for. */
const SEND_IDLE_MS = 10_000;

/** How long sending one body is tried again and again, and the pauses between: doubled each time, up to the last. */
const SEND_FOR_MS = 30_000;
const FIRST_PAUSE_MS = 50;
const LAST_PAUSE_MS = 2_000;

/** Sockets for sending; a store that is overrun answers 503. */
const MAX_SOCKETS = 128;

export interface S3Connection {
  client: S3Client;
  /** For addresses that are handed out. */
  publicClient: S3Client;
  config: S3Config;
  /**
   * Sends a body by PUT.
   * @returns the headers of the answer
   * @throws {S3Error} when the store refuses it; {S3Unavailable} when it could not be sent in time
   */
  put(request: PutRequest): Promise<IncomingHttpHeaders>;
}

export interface PutRequest {
  key: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body: Body;
  /** Gives up when it aborts. */
  signal?: AbortSignal;
}

/** Bytes that can be sent more than once. */
export interface Body {
  size: number;
  /** In memory, or read anew for each attempt. */
  chunks: Uint8Array[] | (() => AsyncIterable<Uint8Array>);
}

/** The store has answered, and no retry will change its mind. */
export class S3Error extends Error {
  override name = 'S3Error';
  constructor(
    readonly status: number,
    /** Such as NoSuchUpload. */
    readonly code: string,
  ) {
    super(`S3 answered ${status} ${code}`);
  }
}

/** The store did not take it in time. */
export class S3Unavailable extends Error {
  override name = 'S3Unavailable';
  constructor(
    /** Whether the store may have got it all the same. */
    readonly uncertain: boolean,
    cause: unknown,
  ) {
    super('S3 did not take the bytes in time', { cause });
  }
}

/** Opens the connection; nothing is sent yet. */
export function openConnection(config: S3Config): S3Connection {
  // It would say at each start that its versions of 2027 need Node 22: the version is pinned.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  const secure = config.endpoint?.startsWith('http:') !== true;
  const Agent = secure ? https.Agent : http.Agent;
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });
  // Downloads hold a socket as long as their clients take: they must not keep uploads waiting.
  const sdkAgent = new Agent({ keepAlive: true });
  const handler = new NodeHttpHandler({
    connectionTimeout: CONNECT_MS,
    requestTimeout: ANSWER_MS,
    throwOnRequestTimeout: true,
    socketTimeout: IDLE_MS,
    ...(secure ? { httpsAgent: sdkAgent as https.Agent } : { httpAgent: sdkAgent }),
  });
  const clientFor = (endpoint: string | undefined) => {
    const checksums = config.checksums === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED';
    return new S3Client({
      ...(endpoint ? { endpoint } : {}),
      ...(config.credentials ? { credentials: config.credentials } : {}),
      region: config.region,
      forcePathStyle: config.forcePathStyle,
      requestChecksumCalculation: checksums,
      responseChecksumValidation: checksums,
      maxAttempts: SDK_ATTEMPTS,
      requestHandler: handler,
    });
  };
  const client = clientFor(config.endpoint);
  const send = createSender(config, client, secure ? https.request : http.request, agent);

  return {
    client,
    publicClient: config.publicEndpoint ? clientFor(config.publicEndpoint) : client,
    config,
    put: (request) => retry(request, send),
  };
}

type Send = (request: PutRequest, began: () => void) => Promise<IncomingHttpHeaders>;

/** Sends again what failed for reasons that may pass. */
async function retry(request: PutRequest, send: Send): Promise<IncomingHttpHeaders> {
  const deadline = Date.now() + SEND_FOR_MS;
  let uncertain = false;
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LAST_PAUSE_MS)) {
    let began = false;
    try {
      return await send(request, () => {
        began = true;
      });
    } catch (error) {
      const answered = error instanceof S3Error;
      // An AppError comes from what the body is read from.
      if (error instanceof AppError || (answered && !isPassing(error))) throw error;
      // Without an answer nobody knows whether a request that had begun was carried out.
      if (!answered && began) uncertain = true;
      if (request.signal?.aborted || Date.now() + wait > deadline) throw new S3Unavailable(uncertain, error);
    }
    // Those that failed together should not come back together.
    await pause(wait * (0.5 + Math.random()), undefined, { signal: request.signal }).catch(() => {});
  }
}

/** Overload, an internal error, a slow network: these pass. */
function isPassing({ status, code }: S3Error): boolean {
  return status >= 500 || status === 408 || status === 429 || ['RequestTimeout', 'SlowDown'].includes(code);
}

function createSender(
  config: S3Config,
  client: S3Client,
  request: typeof http.request,
  agent: http.Agent,
): Send {
  const sha256 = client.config.sha256;
  const signer = new SignatureV4({
    credentials: client.config.credentials,
    region: config.region,
    service: 's3',
    sha256,
    uriEscapePath: false,
  });
  const endpoint = new URL(config.endpoint ?? `https://s3.${config.region}.amazonaws.com`);
  const [host, base] = config.forcePathStyle
    ? [endpoint.host, `${endpoint.pathname.replace(/\/$/, '')}/${config.bucket}`]
    : [`${config.bucket}.${endpoint.host}`, endpoint.pathname.replace(/\/$/, '')];
  const { hostname, port } = new URL(`${endpoint.protocol}//${host}`);

  return async ({ key, query = {}, headers = {}, body, signal }, began) => {
    const path = `${base}/${key}`;
    const signed = await signer.sign(
      new HttpRequest({
        method: 'PUT',
        protocol: endpoint.protocol,
        hostname,
        path,
        query,
        headers: {
          host,
          'content-length': String(body.size),
          // The body is not hashed: TLS, or the network that one trusts, and the client's checksum guard it.
          'x-amz-content-sha256': 'UNSIGNED-PAYLOAD',
          ...headers,
          ...(config.checksums === 'when_supported' ? contentMd5(body) : {}),
        },
      }),
    );
    const search = new URLSearchParams(query).toString();
    const outgoing = request({
      method: 'PUT',
      hostname,
      ...(port ? { port } : {}),
      path: search ? `${path}?${search}` : path,
      headers: signed.headers,
      agent,
      signal,
    });
    return exchange(outgoing, body, began);
  };
}

/** Only of what is in memory: the rest comes from the store itself. */
function contentMd5({ chunks }: Body): Record<string, string> {
  if (typeof chunks === 'function') return {};
  const hash = createHash('md5');
  for (const chunk of chunks) hash.update(chunk);
  return { 'content-md5': hash.digest('base64') };
}

/** Sends the body and reads the answer. @param began called when the store may have got something of it */
async function exchange(
  outgoing: ClientRequest,
  body: Body,
  began: () => void,
): Promise<IncomingHttpHeaders> {
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve).once('error', reject);
  });
  // It is awaited only after the body was sent.
  answered.catch(() => {});
  // A socket that was used before answers nothing to "connect", but the idle time covers it.
  const connecting = setTimeout(
    () => outgoing.destroy(new Error('S3 could not be reached in time')),
    CONNECT_MS,
  );
  outgoing.once('socket', (socket) => {
    const connected = () => {
      clearTimeout(connecting);
      began();
    };
    if (socket.connecting) socket.once('connect', connected);
    else connected();
  });
  outgoing.setTimeout(SEND_IDLE_MS, () => outgoing.destroy(new Error('S3 stopped answering')));
  try {
    if (typeof body.chunks === 'function') {
      await sendStream(outgoing, body.chunks()[Symbol.asyncIterator](), answered);
    } else {
      outgoing.cork();
      for (const chunk of body.chunks) outgoing.write(chunk);
      outgoing.uncork();
    }
    outgoing.end();
    const response = await answered;
    const text = await readText(response);
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299) {
      throw new S3Error(status, /<Code>(\w+)<\/Code>/.exec(text)?.[1] ?? '');
    }
    return response.headers;
  } catch (error) {
    outgoing.destroy();
    throw error;
  } finally {
    clearTimeout(connecting);
  }
}

/** Ends early when an answer comes in mid-body, which is a refusal, and throws when the request fails. */
async function sendStream(
  outgoing: ClientRequest,
  chunks: AsyncIterator<Uint8Array>,
  answered: Promise<IncomingMessage>,
): Promise<void> {
  let early = false;
  const stop = answered.then(() => {
    early = true;
    return undefined;
  });
  stop.catch(() => {});
  try {
    while (!early) {
      const next = await Promise.race([chunks.next(), stop]);
      if (!next || next.done) return;
      if (!outgoing.write(next.value)) await Promise.race([drained(outgoing), stop]);
    }
  } finally {
    // Not waited for: what it reads from may stand still.
    void chunks.return?.().catch(() => {});
  }
}

function drained(outgoing: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      outgoing.off('drain', done).off('close', done);
      resolve();
    };
    outgoing.on('drain', done).on('close', done);
  });
}

async function readText(response: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return text;
}
