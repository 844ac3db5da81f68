import { MIN_PART, partSize } from '../storage/s3/part-size.js';

/*
 * How the bytes of a file become the parts of one object in S3. Pure.
 *
 * Where source and destination are in the same store, the store itself copies ranges of the source's objects. A part other
 * than the last one has at least 5 MiB, so ranges that are smaller cannot be parts of their own: together with the bytes
 * behind them they are sent through this process.
 */

/** A part of the destination. */
export interface PlannedPart {
  /** The first byte of the file, and the one behind the last. */
  start: number;
  end: number;
  /** The object whose bytes these are, and where they are in it; undefined: the bytes are sent. */
  from?: { key: string; start: number; end: number };
}

/** Bytes that the store copies in one call, so that a call ends within its time limit. */
const COPY = 512 * 1024 ** 2;

/** Of the 10,000 that S3 takes. */
const MAX_PARTS = 9_000;

/** Parts that are all sent. @param size bytes */
export function planSending(size: number): PlannedPart[] {
  const most = partSize(size, 1);
  const count = Math.ceil(size / most);
  return Array.from({ length: count }, (_, index) => ({
    start: index * most,
    end: Math.min((index + 1) * most, size),
  }));
}

/** Parts that the store copies where it can. @param objects hold the file's bytes, in this order; sizes in bytes */
export function planCopying(objects: readonly { key: string; size: number }[]): PlannedPart[] {
  const total = objects.reduce((sum, { size }) => sum + size, 0);
  const least = Math.max(MIN_PART, Math.ceil(total / MAX_PARTS));
  const most = Math.max(COPY, 2 * least);
  const parts: PlannedPart[] = [];
  let begin = 0;
  let next = 0;
  for (const { key, size } of objects) {
    const end = begin + size;
    while (next < end) {
      if (end - next >= least || end === total) {
        const offset = begin;
        const copies = split(next, end, most);
        parts.push(
          ...copies.map((part) => ({
            ...part,
            from: { key, start: part.start - offset, end: part.end - offset },
          })),
        );
        next = end;
      } else {
        const sent = { start: next, end: Math.min(total, next + least) };
        parts.push(sent);
        next = sent.end;
      }
    }
    begin = end;
  }
  return parts;
}

/** Pieces of about the same size, so that none is too small for a part. */
function split(start: number, end: number, most: number): PlannedPart[] {
  const count = Math.ceil((end - start) / most);
  const size = Math.ceil((end - start) / Math.max(1, count));
  return Array.from({ length: count }, (_, index) => ({
    start: start + index * size,
    end: Math.min(start + (index + 1) * size, end),
  }));
}
