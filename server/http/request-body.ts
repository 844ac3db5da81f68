import type { IncomingMessage } from 'node:http';
import { AppError } from '../../core/errors.js';
import type { ByteSource } from '../../core/uploads/receive.js';
import { createRests } from './rests.js';

/**
 * The body of a request, chunk by chunk as the socket delivers it. If the client ends or breaks the connection in the
 * middle of the body, the flow rejects after it has given all bytes received.
 * @param limit bytes; more bytes throw
 * @throws {AppError} (from flow) too_large; invalid_request when the body ends too early
 */
export function readBody(req: IncomingMessage, limit = Number.POSITIVE_INFINITY): ByteSource {
  let ended = false;
  let finish = (_error?: Error) => {
    ended = true;
  };
  return {
    end: () => finish(),
    flow: (take) =>
      new Promise((resolve, reject) => {
        const { socket } = req;
        const length = Number(req.headers['content-length'] ?? Number.POSITIVE_INFINITY);
        const rests = createRests(socket);
        const began = performance.now();
        let received = 0;

        finish = (error) => {
          if (ended) return;
          ended = true;
          req.bodyMs = (req.bodyMs ?? 0) + performance.now() - began;
          req.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone);
          socket.off('end', checkEnd);
          rests.end();
          // lingering-close.ts handles the rest of the body.
          req.pause();
          if (error) reject(error);
          else resolve();
        };
        const onData = (chunk: Uint8Array) => {
          received += chunk.byteLength;
          if (received > limit) {
            finish(
              new AppError('too_large', { detail: `The body exceeds the ${limit} bytes that are left` }),
            );
            return;
          }
          const full = take(chunk);
          rests.note(chunk.byteLength, length - received);
          if (full) pauseUntil(full);
          else checkEnd();
        };
        const pauseUntil = (full: Promise<void>) => {
          req.pause();
          full.then(() => {
            if (ended) return;
            req.resume();
            checkEnd();
          });
        };
        const onEnd = () => finish();
        const onGone = () => finish(brokenOff());
        /** The client may end its side within the body. Node tells `req` nothing then; every byte must be read first. */
        const checkEnd = () => {
          if (!req.complete && socket.readableEnded && req.readableLength === 0) onGone();
        };

        if (ended || req.readableEnded) return resolve();
        if (req.destroyed) return onGone();
        req.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);
        socket.on('end', checkEnd);
        checkEnd();
      }),
  };
}

function brokenOff(): AppError {
  return new AppError('invalid_request', { detail: 'The connection ended in the middle of the body' });
}
