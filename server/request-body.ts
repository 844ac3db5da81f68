import type { IncomingMessage } from 'node:http';
import { AppError } from '../core/errors.js';

/** Chunks that may wait to be taken; then the socket is not read. Each has some 64 KiB. */
const MAX_WAITING = 4;

/** The connection broke in the middle of the body. Nobody is there to be told. */
class ClientGone extends Error {
  override name = 'ClientGone';
  /** Our own fault it is not. */
  readonly status = 400;
  /** As @tus/server wants it. */
  readonly status_code = 400;
  readonly body = 'The connection broke\n';
}

export interface RequestBody extends AsyncIterableIterator<Uint8Array> {
  /** Ends the iteration behind what has been received, as if no more had been sent. */
  end(): void;
}

/**
 * The body of a request, chunk by chunk as the socket gives them: a stream's own iterator would put chunks that wait
 * together by copying them.
 * @param limit bytes; what exceeds them throws
 * @throws {AppError} too_large; {ClientGone}
 */
export function readBody(req: IncomingMessage, limit: number): RequestBody {
  const waiting: Uint8Array[] = [];
  let received = 0;
  let ended = false;
  let failure: Error | undefined;
  let wake: (() => void) | undefined;

  const notify = () => {
    wake?.();
    wake = undefined;
  };
  const finish = (error?: Error) => {
    if (ended) return;
    ended = true;
    failure = error;
    req.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone);
    // What is still to come is nobody's business here: see lingering-close.ts.
    req.pause();
    notify();
  };
  const onData = (chunk: Uint8Array) => {
    received += chunk.byteLength;
    if (received > limit) {
      finish(new AppError('too_large', { detail: `The body exceeds the ${limit} bytes that are left` }));
      return;
    }
    waiting.push(chunk);
    if (waiting.length >= MAX_WAITING) req.pause();
    notify();
  };
  const onEnd = () => finish();
  const onGone = () => finish(new ClientGone());

  if (req.readableEnded) ended = true;
  else if (req.destroyed) finish(new ClientGone());
  else req.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);

  return {
    end: () => finish(),
    async next() {
      while (waiting.length === 0 && !ended) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      const chunk = waiting.shift();
      if (chunk) {
        if (!ended && waiting.length === 0 && req.isPaused()) req.resume();
        return { done: false, value: chunk };
      }
      if (failure) throw failure;
      return { done: true, value: undefined };
    },
    async return() {
      waiting.length = 0;
      finish();
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
