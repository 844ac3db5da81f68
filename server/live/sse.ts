import type { Response } from 'express';
import type { Event } from '../../core/database/entities/event.js';
import { toPublicEvent } from '../../core/events/types.js';

/* Server-sent events on the wire (HTML Standard, 9.2.5 and 9.2.6). */

export const MEDIA_TYPE = 'text/event-stream';

/** Clients come back this many milliseconds after a stream has ended, not all at the same time. */
const RETRY_MS = { least: 1_000, spread: 2_000 };

export interface SseWriter {
  /** Sends the headers, and when to come back after the stream has broken. */
  begin(): void;
  /** Returns false if the client has to read before it gets more. */
  sendEvent(event: Event): boolean;
  /** Tells the place in the log, unless the client knows it: it keeps the id of an event without data, and shows none. */
  sendPlace(seq: number): void;
  /** Sends a comment, which clients ignore. Nothing piles up for a client that does not read. */
  sendComment(): void;
  /** Ends the stream, and says when to come back. */
  end(): void;
}

/** @param known the last id that the client has */
export function createSseWriter(res: Response, known: number | undefined): SseWriter {
  let last = known;

  function write(text: string): boolean {
    return res.destroyed || res.writableEnded || res.write(text);
  }

  function sendRetry(): void {
    write(`retry: ${Math.round(RETRY_MS.least + Math.random() * RETRY_MS.spread)}\n\n`);
  }

  return {
    begin() {
      setStreamHeaders(res);
      sendRetry();
    },
    sendEvent(event) {
      last = event.seq ?? last;
      // Without a field `event`, so that one handler of the client (`onmessage`) gets events of all types.
      return write(`id: ${event.seq}\ndata: ${JSON.stringify(toPublicEvent(event))}\n\n`);
    },
    sendPlace(seq) {
      if (seq === last) return;
      last = seq;
      write(`id: ${seq}\n\n`);
    },
    sendComment() {
      if (!res.writableNeedDrain) write(':\n\n');
    },
    end() {
      sendRetry();
      res.end();
    },
  };
}

export function setStreamHeaders(res: Response): void {
  res.setHeader('Content-Type', MEDIA_TYPE);
  // No proxy keeps, compresses or gathers what must arrive at once. The last header is nginx's.
  res.setHeader('Cache-Control', 'no-store, no-transform');
  res.setHeader('X-Accel-Buffering', 'no');
}
