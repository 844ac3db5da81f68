/* The parts of a direct upload: which bytes each has, and how a message names them. */

/** How many gaps a message names. */
const MAX_NAMED = 10;

export interface PlannedPart {
  /** From 1. */
  number: number;
  /** Bytes. */
  size: number;
}

/**
 * Which bytes of an upload are which part.
 * @param length of the upload, in bytes
 * @param partSize bytes of each part; the last one may have fewer
 */
export function planParts(
  length: number,
  partSize: number,
): { partSize: number; partCount: number; parts: PlannedPart[] } {
  const partCount = Math.ceil(length / partSize);
  const parts = Array.from({ length: partCount }, (_, index) => ({
    number: index + 1,
    size: Math.min(partSize, length - index * partSize),
  }));
  return { partSize, partCount, parts };
}

/** `Parts 3, 5–7`; names only the first MAX_NAMED gaps. @param numbers in ascending order */
export function namePartRanges(numbers: number[]): string {
  const ranges: { first: number; last: number }[] = [];
  for (const number of numbers) {
    const range = ranges.at(-1);
    if (range?.last === number - 1) range.last = number;
    else ranges.push({ first: number, last: number });
  }
  const named = ranges
    .slice(0, MAX_NAMED)
    .map(({ first, last }) => (first === last ? `${first}` : `${first}–${last}`))
    .join(', ');
  return `${numbers.length === 1 ? 'Part' : 'Parts'} ${named}${ranges.length > MAX_NAMED ? ', …' : ''}`;
}
