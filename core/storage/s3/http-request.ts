import http, { type ClientRequest, type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { S3Client } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import type { S3Config } from '../../config-groups.js';

/** Makes a signed request for an object. The caller writes its body, if any, and ends it. */
export type Requester = (request: {
  method: 'GET' | 'PUT';
  /** With the configured prefix. */
  key: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** Whether the body is read from the spool or from the store while it is sent. */
  isRead?: boolean;
}) => Promise<ClientRequest>;

/** The store answered with a refusal. */
export class S3Error extends Error {
  override name = 'S3Error';
  constructor(
    readonly status: number,
    /** S3's error code, such as NoSuchUpload. */
    readonly code: string,
  ) {
    super(`S3 answered ${status} ${code}`);
  }

  /** Whether the refusal is temporary: overload, an internal error, a slow network. */
  get passes(): boolean {
    const { status, code } = this;
    return status >= 500 || status === 408 || status === 429 || ['RequestTimeout', 'SlowDown'].includes(code);
  }
}

/** @param client its credentials sign the requests (AWS Signature Version 4) */
export function createRequester(
  { endpoint, bucket, region, forcePathStyle }: S3Config,
  client: S3Client,
  agent: http.Agent,
  agentForRead = agent,
): Requester {
  const signer = new SignatureV4({
    credentials: client.config.credentials,
    region,
    service: 's3',
    sha256: client.config.sha256,
    uriEscapePath: false,
  });
  // The SDK knows the address of a bucket: bucket in the host or in the path, other domains in China.
  const { url: base } = client.config.endpointProvider({
    Bucket: bucket,
    Region: region,
    ForcePathStyle: forcePathStyle,
    UseFIPS: false,
    UseDualStack: false,
    ...(endpoint ? { Endpoint: endpoint } : {}),
  });
  const folder = base.pathname.replace(/\/$/, '');
  const send = base.protocol === 'https:' ? https.request : http.request;

  return async ({ method, key, query = {}, headers = {}, signal, isRead }) => {
    const path = `${folder}/${encodeKey(key)}`;
    const signed = await signer.sign(
      new HttpRequest({
        method,
        protocol: base.protocol,
        hostname: base.hostname,
        path,
        query,
        headers: {
          host: base.host,
          // The body is not hashed: TLS or a trusted network, and the client's checksum, protect it.
          'x-amz-content-sha256': 'UNSIGNED-PAYLOAD',
          ...headers,
        },
      }),
      // The SDK learns from the store's answers how far the clock of this machine is off.
      { signingDate: new Date(Date.now() + client.config.systemClockOffset) },
    );
    const search = new URLSearchParams(query).toString();
    return send({
      method,
      // http.request takes IPv6 addresses without brackets.
      hostname: base.hostname.replace(/^\[|\]$/g, ''),
      port: base.port || undefined,
      path: search ? `${path}?${search}` : path,
      headers: signed.headers,
      agent: isRead ? agentForRead : agent,
      signal,
    });
  };
}

/** A key as it stands in the path of a request (AWS Signature Version 4, UriEncode). */
function encodeKey(key: string): string {
  const encode = (character: string) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(key)
    .replaceAll('%2F', '/')
    .replace(/[!'()*]/g, encode);
}

/** The answer to a request; rejects when that fails. */
export function answerTo(outgoing: ClientRequest): Promise<IncomingMessage> {
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve).on('error', reject);
  });
  // A caller that sends a body awaits the answer only afterwards: an earlier rejection must not end the process.
  answered.catch(() => {});
  return answered;
}

/** Reads a refusal into an S3Error. */
export async function readRefusal(response: IncomingMessage): Promise<S3Error> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return new S3Error(response.statusCode ?? 0, /<Code>(\w+)<\/Code>/.exec(text)?.[1] ?? '');
}
