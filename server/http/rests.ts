import type { Socket } from 'node:net';

/*
 * Thousands of slow senders cost more by the number of reads than by their bytes: each small packet is a way through the
 * event loop, the HTTP parser and the sink. So the socket of a slow sender is not read for a moment after each read. Its
 * bytes gather in the kernel, and one read takes them all.
 */

/** How long a socket rests, in milliseconds. */
const REST_MS = 250;

/**
 * Bytes a millisecond below which a sender is slow. In a rest it sends at most half of the 64 KiB that a receive buffer
 * holds at least, so that it never has to wait.
 */
const SLOW = (32 * 1024) / REST_MS;

export interface Rests {
  /** Notes what one read gave. @param left bytes that are still to come; undefined if that is unknown */
  note(bytes: number, left: number | undefined): void;
  /** From now on the socket does not rest. */
  end(): void;
}

/** @param socket the connection of a request under way. node:http reads it whenever it is not paused. */
export function createRests(socket: Socket): Rests {
  let began = performance.now();
  let bytes = 0;
  let isSlow = false;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;

  function rest(): void {
    if (ended) return;
    socket.pause();
    timer = setTimeout(wake, REST_MS);
  }

  function wake(): void {
    timer = undefined;
    socket.resume();
  }

  return {
    note(count, left) {
      if (ended) return;
      bytes += count;
      const now = performance.now();
      if (now - began >= REST_MS) {
        isSlow = bytes < SLOW * (now - began);
        began = now;
        bytes = 0;
      }
      // The answer to the last bytes should not wait for a rest.
      if (!isSlow || timer || (left !== undefined && left < SLOW * REST_MS)) return;
      // Not at once: the stream of the request makes its socket flow again after each chunk.
      soon(rest);
    },
    end() {
      ended = true;
      if (!timer) return;
      clearTimeout(timer);
      wake();
    },
  };
}

let due: (() => void)[] = [];

/** Calls `act` when the reads that are due now are done. */
function soon(act: () => void): void {
  if (due.length === 0) {
    setImmediate(() => {
      const acts = due;
      due = [];
      for (const one of acts) one();
    });
  }
  due.push(act);
}
