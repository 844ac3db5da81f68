import { MAX_PARTS, MIN_PART, partSize } from '../core/storage/s3/part-size.js';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const TIB = 1024 ** 4;

/** Cuts an upload as an append does, and loses every so many numbers to a crash. */
function cut(length: number, known: boolean, crashEvery = Number.POSITIVE_INFINITY) {
  let number = 1;
  let count = 0;
  const sizes: number[] = [];
  for (let offset = 0; offset < length; ) {
    const size = Math.min(partSize(known ? length - offset : null, number), length - offset);
    sizes.push(size);
    offset += size;
    number += ++count % crashEvery === 0 ? 13 : 1;
  }
  return { last: number - 1, sizes };
}

test.each([1, 8 * MIB, 1 * GIB, 50 * GIB])('%d bytes: parts of 8 MiB', (length) => {
  expect(partSize(length, 1)).toBe(8 * MIB);
});

test.each([70 * GIB, 300 * GIB, 1 * TIB, 5 * TIB - 1, 5 * TIB])(
  '%d bytes fit into 10,000 parts that S3 takes, also when numbers are lost',
  (length) => {
    for (const crashEvery of [Number.POSITIVE_INFINITY, 100]) {
      const { last, sizes } = cut(length, true, crashEvery);
      expect(last).toBeLessThanOrEqual(MAX_PARTS);
      expect(Math.min(...sizes.slice(0, -1))).toBeGreaterThanOrEqual(MIN_PART);
      expect(Math.max(...sizes)).toBeLessThanOrEqual(5 * GIB);
    }
  },
);

test('without a length, parts grow so that 5 TiB fit too, and begin small', () => {
  const { last, sizes } = cut(5 * TIB, false);
  expect(last).toBeLessThanOrEqual(MAX_PARTS);
  expect(sizes.slice(0, 1000).every((size) => size === 8 * MIB)).toBe(true);
  expect(Math.max(...sizes)).toBeLessThanOrEqual(5 * GIB);
});

test('a length that is declared late is still met', () => {
  const { sizes } = cut(8 * GIB, false);
  const number = sizes.length + 1;
  const rest = 5 * TIB - 8 * GIB;
  expect(partSize(rest, number) * (MAX_PARTS + 1 - number)).toBeGreaterThan(rest);
});
