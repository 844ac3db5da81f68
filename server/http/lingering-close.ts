import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RequestHandler } from 'express';

/*
 * What becomes of a body that nobody wants: of a request that was answered (refused, mostly) while it was still being
 * sent. Node reads all of it, be it terabytes, or, where the answer says `Connection: close`, closes the connection at
 * once; what then still arrives is answered by the kernel with a reset, which "could cause the client's TCP stack to
 * erase the unacknowledged input buffers before they can be read" (RFC 9112, 9.6): the client sees a broken connection
 * instead of the answer. So the answer goes out at once, a short rest is read for the sake of the next request on the
 * connection, and of a longer one as much as may be under way. Then nothing more is taken: a client that only sends has to
 * wait and comes to look what there is to read. After that the connection is closed.
 */

interface Patience {
  /** A body of at most so many bytes costs nobody the connection. */
  keepBytes: number;
  /** So many bytes are read after the answer: more than the buffers on both sides usually hold. */
  lingerBytes: number;
  /** And for so long. */
  lingerMs: number;
  /** So long the client has for reading the answer when no more is read. */
  stallMs: number;
}

const PATIENCE: Patience = {
  keepBytes: 1024 ** 2,
  lingerBytes: 16 * 1024 ** 2,
  lingerMs: 30_000,
  stallMs: 2_000,
};

/** Lets answers be given before the body is there. Runs before everything that answers. */
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

/** RFC 9112, 6.3: nothing else tells of a body in a request. */
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
  // Somebody may have stopped it in the middle.
  req.resume();

  // This is what Node calls when the answer is out and was the last one.
  socket.destroySoon = () => {
    socket.end();
    req.once('end', () => socket.destroy());
  };
  req.once('close', () => {
    clearTimeout(tooLong);
    Reflect.deleteProperty(socket, 'destroySoon');
  });
}
