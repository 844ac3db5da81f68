import type { IncomingMessage } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { answerTo, type Requester, readRefusal, S3Error } from './http-request.js';

/** How long a read may be idle. As long as the server waits for its own clients, because a client may pause a download. */
const IDLE_MS = 120_000;

/** Pause between two attempts, doubled each time. */
const FIRST_PAUSE_MS = 50;

/**
 * Opens an object, or the bytes from `start` to `end` of it, both inclusive and from 0. Destroying the answer ends the
 * read.
 * @throws {S3Error} when the store refuses the read; the last attempt's error when the store does not answer
 */
export function getFrom(request: Requester, options: { attempts: number; answerMs: number }) {
  return async (
    key: string,
    range?: { start: number; end: number },
    signal?: AbortSignal,
  ): Promise<IncomingMessage> => {
    const headers: Record<string, string> = range ? { range: `bytes=${range.start}-${range.end}` } : {};
    for (let attempt = 1; ; attempt++) {
      try {
        return await ask();
      } catch (error) {
        const refused = error instanceof S3Error && !error.passes;
        if (refused || signal?.aborted || attempt === options.attempts) throw error;
      }
      await pause(FIRST_PAUSE_MS * 2 ** attempt * (0.5 + Math.random()), undefined, { signal }).catch(
        () => {},
      );
    }

    async function ask(): Promise<IncomingMessage> {
      const outgoing = await request({ method: 'GET', key, headers, signal });
      const answered = answerTo(outgoing);
      const late = () => outgoing.destroy(new Error('S3 did not answer in time'));
      const timer = setTimeout(late, options.answerMs);
      outgoing.setTimeout(IDLE_MS, () => outgoing.destroy(new Error('S3 stopped sending')));
      outgoing.end();
      try {
        const response = await answered;
        const { statusCode = 0 } = response;
        if (statusCode !== 200 && statusCode !== 206) throw await readRefusal(response);
        if (!range || isFrom(range.start, response)) return response;
        response.destroy();
        throw new Error('S3 answered with other bytes than those that were asked for');
      } finally {
        clearTimeout(timer);
      }
    }
  };
}

/** RFC 9110, 14.2: "A server MAY ignore the Range header field". */
function isFrom(start: number, { statusCode, headers }: IncomingMessage): boolean {
  return statusCode === 206 && headers['content-range']?.startsWith(`bytes ${start}-`) === true;
}
