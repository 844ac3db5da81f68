import type { IncomingMessage } from 'node:http';
import { AppError } from '../../core/errors.js';

/** How many chunks of about 64 KiB may wait. With more, the socket is not read. */
const MAX_WAITING = 4;

export interface RequestBody extends AsyncIterableIterator<Uint8Array> {
  /** Ends the iteration after the bytes that have arrived. */
  end(): void;
}

/**
 * The body of a request, chunk by chunk as the socket delivers it. A stream's own iterator would copy waiting
 * chunks together. If the client ends or breaks the connection in the middle of the body, the iteration
 * throws after it has returned all bytes received.
 * @param limit bytes; more bytes throw
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
    // lingering-close.ts handles the rest of the body.
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
  /** The client ended its side within the body (Node tells `req` nothing then), and every byte is read. */
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
