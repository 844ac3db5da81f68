import type { Socket } from 'node:net';
import { Pace } from '../../core/pace.js';

/*
 * Thousands of slow senders cost more by the number of reads than by their bytes: each small packet is a way through the
 * event loop, the HTTP parser and the sink. So the socket of a slow sender is not read for a moment after each read. Its
 * bytes gather in the kernel, and one read takes them all.
 */

/** How long a socket rests, in milliseconds. */
const REST_MS = 250;

/** The most bytes that a sender sends in a rest: half of what a receive buffer holds at least, so that it never waits. */
const REST_BYTES = 32 * 1024;

/** Bytes a millisecond below which a sender is slow. */
const SLOW = REST_BYTES / REST_MS;

export interface Rests {
  /** Notes what one read gave. @param left bytes that are still to come; Infinity if that is unknown */
  note(bytes: number, left: number): void;
  /** From now on the socket does not rest. */
  end(): void;
}

/** @param socket the connection of a request under way. node:http reads it whenever it is not paused. */
export function createRests(socket: Socket): Rests {
  const pace = new Pace();
  /** From the read after which the socket rests until it is read again. */
  let resting = false;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;

  function rest(): void {
    if (ended) return;
    socket.pause();
    timer = setTimeout(wake, REST_MS);
  }

  function wake(): void {
    timer = undefined;
    resting = false;
    socket.resume();
  }

  return {
    note(bytes, left) {
      pace.note(bytes, performance.now());
      const isSlow = pace.rate !== undefined && pace.rate < SLOW;
      // The answer to the last bytes should not wait for a rest.
      if (!isSlow || resting || ended || left < REST_BYTES) return;
      resting = true;
      // Not at once: the stream of the request makes its socket flow again after each chunk.
      setImmediate(rest);
    },
    end() {
      ended = true;
      if (!timer) return;
      clearTimeout(timer);
      wake();
    },
  };
}
