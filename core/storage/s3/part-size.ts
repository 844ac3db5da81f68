/*
 * How large the parts of an upload are. S3 takes at most 10,000 parts of 5 MiB to 5 GiB each (the last may be smaller),
 * so the parts of a longer upload must be larger.
 */

const MIB = 1024 ** 2;

export const MAX_PARTS = 10_000;

/** The smallest part that is not the last one. */
export const MIN_PART = 5 * MIB;

const USUAL_PART = 8 * MIB;

const LARGEST_PART = 5 * 1024 * MIB;

/** A server that dies loses part numbers that it had reserved, so a fifth of the remaining numbers is kept spare. */
const USABLE = 0.8;

/** While the length is not known, the part size doubles after this many parts: 8 TiB in all. */
const DOUBLE_EVERY = 1000;

/**
 * Bytes of the part with this number. (The client of a direct upload gets the part size at the beginning, and the
 * server checks it at the end. A release that changes the size must still complete the uploads under way.)
 * @param remaining bytes from its beginning to the end of the upload; null while the length is not known
 */
export function partSize(remaining: number | null, number: number): number {
  if (remaining === null) {
    return Math.min(USUAL_PART * 2 ** Math.floor((number - 1) / DOUBLE_EVERY), LARGEST_PART);
  }
  const usable = Math.max(1, Math.floor((MAX_PARTS + 1 - number) * USABLE));
  const wanted = Math.ceil(remaining / usable / MIB) * MIB;
  return Math.min(Math.max(wanted, USUAL_PART), LARGEST_PART);
}
