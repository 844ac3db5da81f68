import { writeSync } from 'node:fs';
import { type DestinationStream, levels, symbols } from 'pino';

/*
 * How lines leave the process. A system call for each line costs more than making the line. So lines gather for a moment
 * and are written together. A warning or an error is written at once, with all that came before it. At the end of the
 * process, also by an uncaught exception, the rest is written. A process that is killed (SIGKILL) loses the lines of its
 * last moment, none of them a warning. Writing is synchronous: nothing gathers behind a slow reader.
 */

/** How long a line may wait, in milliseconds, and how many characters may. */
const WAIT_MS = 100;
const MOST = 32 * 1024;

/** Lines from this level on do not wait. */
const URGENT = levels.values.warn ?? 0;

/** Pause before another try to write to a stdout that takes nothing at the moment, in milliseconds. */
const FULL_MS = 10;

/** Writes whole lines. Never throws. */
export type WriteLines = (lines: string) => void;

/** @returns a destination for pino that gathers lines for `write` */
export function gatherLines(write: WriteLines): DestinationStream {
  let waiting = '';
  let timer: NodeJS.Timeout | undefined;
  let isUsed = false;

  function flush(): void {
    clearTimeout(timer);
    timer = undefined;
    const lines = waiting;
    waiting = '';
    if (lines) write(lines);
  }

  const destination = {
    // Asks pino to set lastLevel before it writes a line.
    [symbols.needsMetadataGsym]: true as const,
    lastLevel: 0,
    write(line: string) {
      if (!isUsed) process.on('exit', flush);
      isUsed = true;
      waiting += line;
      if (destination.lastLevel >= URGENT || waiting.length >= MOST) flush();
      else timer ??= setTimeout(flush, WAIT_MS).unref();
    },
  };
  return destination;
}

/** Lines that stdout cannot take (its reader has gone, or its disk is full) are lost; the process goes on. */
export const writeToStdout: WriteLines = (lines) => {
  const rest = { bytes: Buffer.from(lines) };
  while (rest.bytes.length > 0) {
    try {
      rest.bytes = rest.bytes.subarray(writeSync(1, rest.bytes));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      // Another program may have made the pipe non-blocking.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_MS);
    }
  }
};
