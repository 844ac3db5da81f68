import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RequestHandler } from 'express';

/*
 * Handles the rest of a body whose request was answered (usually refused) while the client was still sending.
 * Node would read all of it, even terabytes. With `Connection: close` in the answer Node closes the
 * connection at once, and the kernel answers later bytes with a reset, which "could cause the client's TCP
 * stack to erase the unacknowledged input buffers before they can be read" (RFC 9112, 9.6): the client sees a
 * broken connection instead of the answer.
 *
 * So the server sends the answer at once. It reads a short rest, to keep the connection for the next request.
 * Of a longer rest it reads as much as may be under way. Then it stops reading: a client that only sends gets
 * stuck and looks for an answer. After that the server closes the connection.
 */

interface Patience {
  /** A connection survives a body of at most this many bytes. */
  keepBytes: number;
  /** How many bytes are read after the answer: more than the buffers on both sides usually hold. */
  lingerBytes: number;
  /** How long these bytes are read. */
  lingerMs: number;
  /** How long the client may take to read the answer after that. */
  stallMs: number;
}

const PATIENCE: Patience = {
  keepBytes: 1024 ** 2,
  lingerBytes: 16 * 1024 ** 2,
  lingerMs: 30_000,
  stallMs: 2_000,
};

/** Allows answers before the whole body has arrived. Runs before every handler that answers. */
export function lingeringClose(patience: Patience = PATIENCE): RequestHandler {
  return (req, res, next) => {
    if (hasBody(req)) {
      const end = res.end.bind(res) as (...args: unknown[]) => ServerResponse;
      res.end = ((...args: unknown[]) => {
        const isUnderWay = !req.complete && !req.socket.readableEnded;
        if (isUnderWay && !res.writableEnded) dismissRest(req, res, patience);
        return end(...args);
      }) as typeof res.end;
    }
    next();
  };
}

/** RFC 9112, 6.3: only these headers announce a body in a request. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length']) > 0;
}

function dismissRest(req: IncomingMessage, res: ServerResponse, patience: Patience): void {
  const { socket } = req;
  const isShort = Number(req.headers['content-length'] ?? Number.POSITIVE_INFINITY) <= patience.keepBytes;
  if (!isShort && !res.headersSent) res.setHeader('Connection', 'close');

  let tooLong = setTimeout(() => socket.destroy(), patience.lingerMs);
  let discarded = 0;
  req.on('data', (chunk: Uint8Array) => {
    discarded += chunk.byteLength;
    if (discarded <= patience.lingerBytes || req.isPaused()) return;
    req.pause();
    clearTimeout(tooLong);
    tooLong = setTimeout(() => socket.destroy(), patience.stallMs);
  });
  // A reader may have paused the body.
  req.resume();

  // Node calls this after the last answer of a connection.
  socket.destroySoon = () => {
    socket.end();
    req.once('end', () => socket.destroy());
  };
  req.once('close', () => {
    clearTimeout(tooLong);
    Reflect.deleteProperty(socket, 'destroySoon');
  });
}
