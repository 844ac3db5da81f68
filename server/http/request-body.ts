import type { IncomingMessage } from 'node:http';
import { AppError } from '../../core/errors.js';

/** Chunks that may wait to be taken; then the socket is not read. Each has some 64 KiB. */
const MAX_WAITING = 4;

export interface RequestBody extends AsyncIterableIterator<Uint8Array> {
  /** Ends the iteration behind what has been received, as if no more had been sent. */
  end(): void;
}

/**
 * The body of a request, chunk by chunk as the socket gives them: a stream's own iterator would put chunks that wait
 * together by copying them. If the client ends in the middle of the body, or breaks the connection, the iteration throws
 * behind all that has been received.
 * @param limit bytes; what exceeds them throws
 * @throws {AppError} too_large; invalid_request when the body ends too early
 */
export function readBody(req: IncomingMessage, limit: number): RequestBody {
  const { socket } = req;
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
    socket.off('end', notify);
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
  const onGone = () => finish(brokenOff());
  /** The client has ended its side in the middle of the body (Node says nothing to `req` then), and all is read. */
  const isCutShort = () => !req.complete && socket.readableEnded && req.readableLength === 0;

  if (req.readableEnded) ended = true;
  else if (req.destroyed) onGone();
  else {
    req.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);
    socket.on('end', notify);
  }

  return {
    end: () => finish(),
    async next() {
      while (waiting.length === 0 && !ended) {
        if (isCutShort()) {
          onGone();
          break;
        }
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

function brokenOff(): AppError {
  return new AppError('invalid_request', { detail: 'The connection ended in the middle of the body' });
}
