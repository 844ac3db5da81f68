import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type OutgoingHttpHeaders,
} from 'node:http2';
import type { TestUser } from './client.js';

interface Http2Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

interface Http2Request {
  stream: ClientHttp2Stream;
  /** Rejects if the stream ends without an answer. */
  answer: Promise<Http2Answer>;
  /** Sends `bytes` zeros as fast as they are taken, and then ends, unless the stream is over before. */
  pour(bytes: number): Promise<void>;
}

export interface Http2Connection {
  session: ClientHttp2Session;
  /** Opens a stream with the token of the user; the caller writes and ends the body. */
  request(method: string, path: string, headers?: OutgoingHttpHeaders): Http2Request;
  /** A whole request. */
  send(method: string, path: string, headers?: OutgoingHttpHeaders, body?: Uint8Array): Promise<Http2Answer>;
}

/** Opens one HTTP/2 connection. @param certificate the only one that is trusted */
export async function openHttp2(url: string, certificate: string, user: TestUser): Promise<Http2Connection> {
  const session = connect(url, { ca: certificate });
  await once(session, 'connect');
  session.on('error', () => {});
  const request: Http2Connection['request'] = (method, path, headers = {}) => {
    const all = { 'tus-resumable': '1.0.0', authorization: `Bearer ${user.token}`, ...headers };
    const stream = session.request({ ':method': method, ':path': path, ...all }, { endStream: false });
    const answer = readAnswer(stream);
    // Some callers look at it only later.
    answer.catch(() => {});
    return { stream, answer, pour: (bytes) => pourZeros(stream, bytes) };
  };
  return {
    session,
    request,
    send(method, path, headers, body = Buffer.alloc(0)) {
      const { stream, answer } = request(method, path, headers);
      stream.end(body);
      return answer;
    },
  };
}

async function readAnswer(stream: ClientHttp2Stream): Promise<Http2Answer> {
  const answer: Http2Answer = { status: 0, headers: {}, body: '' };
  // A reset after a whole answer says only that the rest of the body is not wanted.
  stream.on('error', () => {});
  stream.on('response', ({ ':status': status = 0, ...headers }) => {
    answer.status = status;
    answer.headers = headers as Record<string, string>;
  });
  stream.on('data', (chunk) => {
    answer.body += chunk;
  });
  await new Promise<void>((resolve) => stream.once('end', resolve).once('close', resolve));
  if (answer.status === 0) throw new Error(`stream ${stream.id} ended with ${stream.rstCode}`);
  // The rest of a body is of no use after the answer.
  if (!stream.writableEnded) stream.close(constants.NGHTTP2_CANCEL);
  return answer;
}

async function pourZeros(stream: ClientHttp2Stream, bytes: number): Promise<void> {
  const zeros = Buffer.alloc(64 * 1024);
  let wake = () => {};
  const onWake = () => wake();
  stream.on('drain', onWake).on('close', onWake);
  for (let sent = 0; sent < bytes && !stream.closed; sent += zeros.length) {
    if (stream.write(zeros.subarray(0, Math.min(zeros.length, bytes - sent)))) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (stream.closed) resolve();
    });
  }
  if (!stream.closed) stream.end();
}
