import type { Response } from 'express';
import type { Event } from '../../core/database/entities/event.js';
import { toPublicEvent } from '../../core/events/types.js';

/* The wire format of server-sent events (HTML Standard, 9.2.5 and 9.2.6). */

export const MEDIA_TYPE = 'text/event-stream';

/** Clients come back this many milliseconds after a stream has ended, not all at the same time. */
const RETRY_MS = { least: 1_000, spread: 2_000 };

export function setStreamHeaders(res: Response): void {
  res.setHeader('Content-Type', MEDIA_TYPE);
  // No proxy keeps, compresses or gathers what must arrive at once. The last header is nginx's.
  res.setHeader('Cache-Control', 'no-store, no-transform');
  res.setHeader('X-Accel-Buffering', 'no');
}

/** Without a field `event`, so that one handler of the client (`onmessage`) gets events of all types. */
export function eventFrame(event: Event): string {
  return `id: ${event.seq}\ndata: ${JSON.stringify(toPublicEvent(event))}\n\n`;
}

/** Only tells the place in the log: clients dispatch no event without data, but they keep the id. */
export function placeFrame(seq: number): string {
  return `id: ${seq}\n\n`;
}

/** Says when to come back after the stream has ended. */
export function retryFrame(): string {
  return `retry: ${Math.round(RETRY_MS.least + Math.random() * RETRY_MS.spread)}\n\n`;
}

/** A comment, which clients ignore. */
export const HEARTBEAT = ':\n\n';
