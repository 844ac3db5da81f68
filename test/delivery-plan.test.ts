import { type PlannedPart, planCopying, planSending } from '../core/delivery/copy-plan.js';

/* How the bytes of a file become the parts of an object. */

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const TIB = 1024 ** 4;

const objectsOf = (sizes: number[]) => sizes.map((size, index) => ({ key: `k${index}`, size }));

/** The rules of S3, and that every byte comes once, from where it is. Thousands of parts are checked by one expect(). */
function expectPossible(parts: PlannedPart[], sizes: number[]): void {
  const begins = [0];
  for (const size of sizes) begins.push((begins.at(-1) ?? 0) + size);
  const total = begins.at(-1) ?? 0;
  const isRight = ({ start, end, from }: PlannedPart, index: number): boolean => {
    const size = end - start;
    const isLast = index === parts.length - 1;
    const follows = start === (parts[index - 1]?.end ?? 0) && (!isLast || end === total);
    if (!follows || size <= 0 || size > 5 * GIB || (size < 5 * MIB && !isLast)) return false;
    if (!from) return true;
    const number = Number(from.key.slice(1));
    const begin = begins[number] ?? Number.NaN;
    return (
      from.start === start - begin &&
      from.end === end - begin &&
      from.start >= 0 &&
      from.end <= (sizes[number] ?? Number.NaN)
    );
  };
  expect(parts.filter((part, index) => !isRight(part, index))).toEqual([]);
  expect(parts.length > 0).toBe(total > 0);
  expect(parts.length).toBeLessThanOrEqual(10_000);
}

test.each([0, 1, 8 * MIB, 8 * MIB + 1, 17 * MIB, 100 * GIB + 3, 5 * TIB])('%d bytes are sent', (size) => {
  const parts = planSending(size);
  expectPossible(parts, [size]);
  expect(parts.every(({ from }) => from === undefined)).toBe(true);
});

test.each([
  ['one small object', [3], 1],
  ['one object of 300 MiB', [300 * MIB], 1],
  ['one object of 6 GiB', [6 * GIB], 12],
  ['one object of 5 TiB', [5 * TIB], 4500],
  ['large ones', [30 * MIB, 7 * MIB, 5 * MIB], 3],
  ['a small last one', [30 * MIB, 1], 2],
])('%s: the store copies all of it', (_what, sizes, count) => {
  const parts = planCopying(objectsOf(sizes));
  expectPossible(parts, sizes);
  expect(parts.filter(({ from }) => !from)).toEqual([]);
  expect(parts).toHaveLength(count);
});

test.each([
  ['small ones only', Array(30).fill(MIB), 6],
  ['a small one between large ones', [10 * MIB, 1, 10 * MIB], 1],
  ['a small first one', [1, 20 * MIB], 1],
  ['large ones whose rest is small', [6 * MIB, 4 * MIB, 6 * MIB, 4 * MIB, 6 * MIB], 2],
])('%s: what is too small for a part is sent', (_what, sizes, sent) => {
  const parts = planCopying(objectsOf(sizes));
  expectPossible(parts, sizes);
  expect(parts.filter(({ from }) => !from).length).toBe(sent);
});

test('any objects', () => {
  let seed = 1;
  const random = () => {
    seed = (seed * 16_807) % 2_147_483_647;
    return seed / 2_147_483_647;
  };
  for (let round = 0; round < 300; round++) {
    const scale = [100, MIB, 8 * MIB, GIB, 50 * GIB][round % 5] ?? 1;
    const sizes = Array.from(
      { length: 1 + Math.floor(random() * 60) },
      () => 1 + Math.floor(random() * scale),
    );
    expectPossible(planCopying(objectsOf(sizes)), sizes);
  }
  const many = Array<number>(40_000).fill(6 * MIB);
  expectPossible(planCopying(objectsOf(many)), many);
});
