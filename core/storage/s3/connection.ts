import http, { type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import https from 'node:https';
import { S3Client } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { S3Config } from '../../config-groups.js';
import { getFrom } from './http-get.js';
import { type PutRequest, putTo } from './http-put.js';
import { createRequester } from './http-request.js';

/*
 * The connection to S3. Calls that carry bytes (UploadPart, PutObject, GetObject) use our own requests: the AWS SDK would
 * hash and copy the bytes, which costs more than the rest of an upload. All other calls use the SDK. Every call has
 * deadlines for connecting, answering and moving bytes, and is retried a bounded number of times.
 */

const CONNECT_MS = 3_000;

/** How long a socket may be idle. */
const IDLE_MS = 30_000;

/** The longest time from the request to the head of the answer. */
const ANSWER_MS = 15_000;

const ATTEMPTS = 4;

/** Sockets for sending. A store that is overloaded answers 503. */
const MAX_SOCKETS = 128;

/**
 * Sockets for bodies that are read from the spool or the store while they are sent. Hundreds of slow uploads may end
 * together: few at a time need less memory, and the first have their answers early.
 */
const MAX_SOCKETS_READ = 16;

export interface S3Connection {
  client: S3Client;
  /** For addresses that are handed out. */
  publicClient: S3Client;
  config: S3Config;
  /** See s3/http-put.ts. */
  put(request: PutRequest): Promise<IncomingHttpHeaders>;
  /** See s3/http-get.ts. */
  get(key: string, range?: { start: number; end: number }, signal?: AbortSignal): Promise<IncomingMessage>;
}

/** Opens the connection; nothing is sent yet. */
export function openConnection(config: S3Config): S3Connection {
  // The SDK would warn at each start that its versions of 2027 need Node 22. Our SDK version is pinned.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  const secure = config.endpoint?.startsWith('http:') !== true;
  const Agent = secure ? https.Agent : http.Agent;
  const agent = new Agent({ keepAlive: true });
  // A separate agent: downloads hold sockets as long as their clients read, and must not keep uploads waiting.
  const sendAgent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });
  const sendReadAgent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS_READ });
  const handler = new NodeHttpHandler({
    connectionTimeout: CONNECT_MS,
    requestTimeout: ANSWER_MS,
    throwOnRequestTimeout: true,
    socketTimeout: IDLE_MS,
    ...(secure ? { httpsAgent: agent as https.Agent } : { httpAgent: agent }),
  });
  const clientFor = (endpoint: string | undefined, checksums: 'WHEN_SUPPORTED' | 'WHEN_REQUIRED') =>
    new S3Client({
      ...(endpoint ? { endpoint } : {}),
      ...(config.credentials ? { credentials: config.credentials } : {}),
      region: config.region,
      forcePathStyle: config.forcePathStyle,
      requestChecksumCalculation: checksums,
      responseChecksumValidation: checksums,
      maxAttempts: ATTEMPTS,
      requestHandler: handler,
    });
  const client = clientFor(
    config.endpoint,
    config.checksums === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED',
  );
  return {
    client,
    // Never with checksums: the server that signs an address does not know the bytes that will be sent there.
    publicClient: clientFor(config.publicEndpoint ?? config.endpoint, 'WHEN_REQUIRED'),
    config,
    put: putTo(createRequester(config, client, sendAgent, sendReadAgent), {
      withMd5: config.checksums === 'when_supported',
      connectMs: CONNECT_MS,
    }),
    get: getFrom(createRequester(config, client, agent), { attempts: ATTEMPTS, answerMs: ANSWER_MS }),
  };
}
