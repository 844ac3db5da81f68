import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { createLimiter } from '../../concurrency.js';
import { AppError } from '../../errors.js';
import { answerTo, type Requester, readRefusal, S3Error } from './http-request.js';

/** How long a socket may be idle. */
const IDLE_MS = 10_000;

/** One attempt may take LONGEST_MS, plus one millisecond for every SLOWEST bytes of its body. */
const LONGEST_MS = 60_000;
const SLOWEST = 256;

/**
 * How long one body is retried, and the pauses between attempts, which double up to LAST_PAUSE_MS. One attempt with a
 * large body that is read back from the store may take longer than SEND_FOR_MS; it still gets MIN_ATTEMPTS.
 */
const SEND_FOR_MS = 30_000;
const MIN_ATTEMPTS = 3;
const FIRST_PAUSE_MS = 50;
const LAST_PAUSE_MS = 2_000;

/** Bodies that are hashed at a time: a body that is read anew takes a buffer meanwhile. */
const HASHES = 4;

export interface PutRequest {
  /** With the configured prefix. */
  key: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body: Body;
  /** Gives up when it aborts. */
  signal?: AbortSignal | undefined;
}

/** Bytes that can be sent more than once. */
export interface Body {
  size: number;
  /** In memory, or read anew for each attempt; then a chunk may be valid only until the next one is asked for. */
  chunks: Uint8Array[] | (() => AsyncIterable<Uint8Array>);
  /** Whether bytes are read back from the store itself. */
  isReadBack?: boolean;
  /** Whether some of it is in memory, for which other uploads wait. */
  holdsMemory?: boolean;
}

/** The store did not take the body in time. */
export class S3Unavailable extends Error {
  override name = 'S3Unavailable';
  constructor(
    /** Whether the store may have received it nevertheless. */
    readonly uncertain: boolean,
    cause: unknown,
  ) {
    super('S3 did not take the bytes in time', { cause });
  }
}

/**
 * Returns a function that sends a body by PUT and retries failures that may be temporary.
 * @param options.withMd5 whether a body that is not read back from the store gets a Content-MD5
 * @param options.connectMs how long a connection may take to be made
 * @param options.sendForMs after this time no further attempt begins, except the first few
 * @returns a function that resolves with the headers of the store's answer. It rejects with {S3Error} when the store
 * refuses the body, {S3Unavailable} when it could not be sent in time, or the {AppError} of reading the body
 */
export function putTo(
  request: Requester,
  options: { withMd5: boolean; connectMs: number; sendForMs?: number },
) {
  const hashing = createLimiter(HASHES);
  return async (put: PutRequest): Promise<IncomingHttpHeaders> => {
    const deadline = Date.now() + (options.sendForMs ?? SEND_FOR_MS);
    const { body, signal } = put;
    const headers = {
      'content-length': String(body.size),
      ...put.headers,
      ...(options.withMd5 && !body.isReadBack ? await hashing(() => contentMd5(body)) : {}),
    };
    let uncertain = false;
    let wait = FIRST_PAUSE_MS;
    for (let attempt = 1; ; attempt++) {
      let began = false;
      try {
        const outgoing = await request({
          ...put,
          method: 'PUT',
          headers,
          isRead: typeof body.chunks === 'function' && !body.holdsMemory,
        });
        return await send(outgoing, put, options.connectMs, () => {
          began = true;
        });
      } catch (error) {
        const answered = error instanceof S3Error;
        // An AppError comes from reading the body.
        if (error instanceof AppError || (answered && !error.passes)) throw error;
        // Without an answer the store may have carried out the request.
        if (!answered && began) uncertain = true;
        const isLate = attempt >= MIN_ATTEMPTS && Date.now() + wait > deadline;
        if (signal?.aborted || isLate) throw new S3Unavailable(uncertain, error);
      }
      // Bodies that failed together should not be retried at the same moment.
      await pause(wait * (0.5 + Math.random()), undefined, { signal }).catch(() => {});
      wait = Math.min(2 * wait, LAST_PAUSE_MS);
    }
  };
}

async function contentMd5({ chunks }: Body): Promise<Record<string, string>> {
  const hash = createHash('md5');
  if (typeof chunks === 'function') for await (const chunk of chunks()) hash.update(chunk);
  else for (const chunk of chunks) hash.update(chunk);
  return { 'content-md5': hash.digest('base64') };
}

/** Sends the body and reads the answer. @param began called when the store may have received some of it */
async function send(
  outgoing: ClientRequest,
  { body, signal }: PutRequest,
  connectMs: number,
  began: () => void,
): Promise<IncomingHttpHeaders> {
  const answered = answerTo(outgoing);
  const late = (what: string) => () => outgoing.destroy(new Error(`S3 ${what}`));
  const timers = [setTimeout(late('took too long'), LONGEST_MS + body.size / SLOWEST)];
  outgoing.once('socket', (socket) => {
    if (!socket.connecting) return began();
    const connecting = setTimeout(late('could not be reached in time'), connectMs);
    timers.push(connecting);
    socket.once('connect', () => {
      clearTimeout(connecting);
      began();
    });
  });
  outgoing.setTimeout(IDLE_MS, late('stopped answering'));
  let sent = true;
  try {
    // Hundreds of bodies may wait for a connection, and none of them should be read before it has one. Node reports that a
    // request was aborted only when there is a connection for it, so the signal is watched here too.
    if (!outgoing.socket) await Promise.race([once(outgoing, 'socket', { signal }), answered]);
    if (typeof body.chunks === 'function') {
      sent = await sendStream(outgoing, body.chunks()[Symbol.asyncIterator](), answered);
      // Do not end an incomplete request: the agent would reuse its socket while the store waits for the rest.
      if (sent) outgoing.end();
    } else {
      outgoing.cork();
      for (const chunk of body.chunks) outgoing.write(chunk);
      outgoing.end();
    }
    const response = await answered;
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299) throw await readRefusal(response);
    for await (const _ of response);
    if (!sent) throw new Error('S3 took an object for whole that was not');
    return response.headers;
  } catch (error) {
    outgoing.destroy();
    throw error;
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}

/**
 * Ends early when the store answers before the end of the body, which is a refusal, or when the request fails.
 * @returns whether the whole body was sent
 */
async function sendStream(
  outgoing: ClientRequest,
  chunks: AsyncIterator<Uint8Array>,
  answered: Promise<IncomingMessage>,
): Promise<boolean> {
  let over = false;
  let interrupt = () => {};
  const stop = () => {
    over = true;
    interrupt();
  };
  answered.then(stop, stop);
  // Not Promise.race(): it would keep every chunk in memory until the request is answered.
  const unlessOver = <T>(work: Promise<T>) =>
    new Promise<T | undefined>((resolve, reject) => {
      if (over) resolve(undefined);
      interrupt = () => resolve(undefined);
      work.then(resolve, reject);
    });
  try {
    while (!over) {
      const next = await unlessOver(chunks.next());
      if (next?.done) return true;
      if (next) await unlessOver(write(outgoing, next.value));
    }
    return false;
  } finally {
    // Not awaited: the body's source may have stalled.
    void chunks.return?.().catch(() => {});
  }
}

/** Resolves when the system has taken the chunk, so that its memory can be used again, or when the request has ended. */
function write(outgoing: ClientRequest, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    outgoing.once('close', resolve);
    outgoing.write(chunk, () => {
      outgoing.off('close', resolve);
      resolve();
    });
  });
}
