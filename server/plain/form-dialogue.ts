import { setImmediate as turn } from 'node:timers/promises';
import type { Take } from '../../core/uploads/receive.js';

/**
 * Coordinates the parser, which feed() fills, and the reader, who asks for files and their content. The two
 * sides never wait for `changed` at the same time: the reader waits only while it asks, feed() only while the
 * reader does not ask or has not yet taken the found files.
 * @param stuck makes the error for a form on which the parser waits for ever
 */
export function createDialogue(stuck: () => Error) {
  let asked = 0;
  let asking = false;
  /** Whether ask() runs. Meanwhile the reader may still be busy with a part of the answer. */
  let isOpen = false;
  let wake = () => {};
  const changed = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });
  return {
    changed,
    /** Wakes the waiting side after a change. */
    notify: () => wake(),
    isAsking: () => asking,
    /** Passes chunks on. Each answers the reader, who asks for the next one as soon as `take` is not full. */
    countAnswers(take: Take): Take {
      return (chunk) => {
        asked++;
        const full = take(chunk);
        if (!full) return undefined;
        asking = false;
        return full.then(() => {
          if (!isOpen) return;
          asked++;
          asking = true;
          wake();
        });
      };
    },
    /** Runs `wanted` as a question of the reader. */
    async ask<T>(wanted: () => Promise<T>): Promise<T> {
      asked++;
      asking = true;
      isOpen = true;
      wake();
      try {
        return await wanted();
      } finally {
        asking = false;
        isOpen = false;
      }
    },
    /**
     * Waits until the parser has processed its input. The parser works in ticks, which all run before the
     * next turn of the event loop; only unread content can delay it longer. So if the reader asks and has no
     * answer by the next turn, no answer will ever come.
     * @throws the error of `stuck`
     */
    async settled(isThrough: () => boolean): Promise<void> {
      while (!isThrough()) {
        const question = asked;
        await (asking ? turn() : changed());
        if (asking && asked === question && !isThrough()) throw stuck();
      }
    },
  };
}
