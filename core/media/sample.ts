import { Readable } from 'node:stream';
import type { TaskSource } from './parser-task.js';
import { HEAD, TAIL } from './types.js';

/** Keeps the bytes of a stream that are needed to detect its type. */
export interface Sample {
  push(chunk: Uint8Array): void;
  /** Bytes pushed so far. */
  size(): number;
  /** The first bytes, followed by the last bytes if it is a ZIP archive. */
  bytes(): Buffer;
  /** These bytes as the source of a parser's task. @param isWhole whether the stream has ended */
  source(isWhole: boolean): TaskSource;
}

export function createSample(): Sample {
  const head: Buffer[] = [];
  let tail: Buffer[] = [];
  let size = 0;
  let tailSize = 0;
  let isZip: boolean | undefined;

  // Copies, because the reader may use the memory of a chunk again.
  function pushTail(rest: Uint8Array): void {
    isZip ??= Buffer.concat(head).subarray(0, 2).toString('latin1') === 'PK';
    if (!isZip) return;
    const last = Buffer.from(rest.subarray(-TAIL));
    tail.push(last);
    tailSize += last.length;
    const dropped = tail.findIndex((chunk) => {
      if (tailSize - chunk.length < TAIL) return true;
      tailSize -= chunk.length;
      return false;
    });
    tail = tail.slice(dropped);
  }

  const bytes = () => Buffer.concat([...head, ...tail]);

  return {
    push(chunk) {
      const left = Math.max(0, HEAD - size);
      if (left > 0) head.push(Buffer.from(chunk.subarray(0, left)));
      if (chunk.length > left) pushTail(chunk.subarray(left));
      size += chunk.length;
    },
    size: () => size,
    bytes,
    source: (isWhole) => ({
      size: isWhole ? size : size + 1,
      sent: bytes().length,
      read: async () => Readable.from([bytes()]),
    }),
  };
}
