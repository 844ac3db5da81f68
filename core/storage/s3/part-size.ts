/*
 * How large the parts of an upload are. S3 takes at most 10,000 of 5 MiB to 5 GiB each (the last may be smaller), so
 * they have to grow with the length of the upload.
 */

const MIB = 1024 ** 2;

export const MAX_PARTS = 10_000;

/** The smallest part that is not the last one. */
export const MIN_PART = 5 * MIB;

const USUAL_PART = 8 * MIB;

const LARGEST_PART = 5 * 1024 * MIB;

/** Numbers may be lost with servers that die: a fifth of those that are left is kept for that. */
const USABLE = 0.8;

/** Without a length, parts double in size each time so many have been used: 8 TiB in all. */
const DOUBLE_EVERY = 1000;

/**
 * Bytes of the part with this number. (A direct upload is told the size of its parts at its beginning and held to it at
 * its end: a release that changes the size must let those that run come to their end.)
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
