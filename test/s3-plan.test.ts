import { AppError } from '../core/errors.js';
import { MAX_PARTS, MIN_PART } from '../core/storage/s3/part-size.js';
import { bytesOf, nextGoal, nextStep, type Planned, type Reason } from '../core/storage/s3/plan.js';
import type { Segment } from '../core/storage/storage.js';
import { Random } from './support/random.js';

/* The decisions on what becomes of the bytes of an upload in S3. */

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const REASONS: Reason[] = ['full', 'end', 'old', 'memory'];

function plan(length: number | null, offset: number, { parts = 0, tail = [] as number[] } = {}): Planned {
  const segments = tail.map((size, index) => ({ key: `key-${index}`, size }));
  const multipartId = parts > 0 ? 'id' : null;
  return { offset, length, state: { multipartId, nextPart: parts + 1, tail: segments } };
}

test.each([
  ['a small upload', plan(1000, 0), { kind: 'last', bytes: 1000 }],
  ['an upload of one part', plan(8 * MIB, 0), { kind: 'last', bytes: 8 * MIB }],
  ['a larger upload', plan(8 * MIB + 1, 0), { kind: 'part', bytes: 8 * MIB }],
  ['an unknown length', plan(null, 0), { kind: 'part', bytes: 8 * MIB }],
  ['bytes behind a tail', plan(null, 3 * MIB, { tail: [2 * MIB, MIB] }), { kind: 'part', bytes: 5 * MIB }],
  ['the rest behind a tail', plan(6 * MIB, 4 * MIB, { tail: [4 * MIB] }), { kind: 'last', bytes: 2 * MIB }],
  ['a tail that is a part already', plan(null, 9 * MIB, { tail: [9 * MIB] }), { kind: 'part', bytes: 0 }],
  ['parts too large for memory', plan(1024 * GIB, 0), { kind: 'segment', bytes: 32 * MIB }],
  [
    'the last segment of such a part',
    plan(1024 * GIB, 120 * MIB, { tail: [120 * MIB] }),
    { kind: 'segment', bytes: 12 * MIB },
  ],
])('the goal of %s', (_what, planned, goal) => {
  expect(nextGoal(planned)).toEqual(goal);
});

test.each([
  ['the whole upload in one request', plan(1000, 0), 1000, 'end', 'object'],
  ['a whole upload whose body has not ended', plan(1000, 0), 1000, 'old', 'segment'],
  ['its first half', plan(1000, 0), 500, 'end', 'segment'],
  ['the last bytes behind parts', plan(9 * MIB, 8 * MIB, { parts: 1 }), MIB, 'end', 'part'],
  ['a full part', plan(20 * MIB, 0), 8 * MIB, 'full', 'part'],
  ['the end of a request, enough for a part', plan(20 * MIB, 0), 5 * MIB, 'end', 'part'],
  ['the end of a request, too little for a part', plan(20 * MIB, 0), 5 * MIB - 1, 'end', 'segment'],
  ['memory is wanted, enough for a part', plan(20 * MIB, 0), 6 * MIB, 'memory', 'part'],
  ['memory is wanted, too little for a part', plan(20 * MIB, 0), MIB, 'memory', 'segment'],
  ['old bytes and a tail, together a part', plan(20 * MIB, 4 * MIB, { tail: [4 * MIB] }), MIB, 'old', 'part'],
  ['a short part where large ones are needed', plan(8000 * 8 * MIB, 0), 6 * MIB, 'end', 'segment'],
  [
    'no part number left, but memory is wanted',
    plan(GIB, GIB - 6 * MIB, { parts: MAX_PARTS }),
    6 * MIB,
    'memory',
    'segment',
  ],
] as [string, Planned, number, Reason, string][])(
  'what becomes of %s',
  (_what, planned, bytes, reason, kind) => {
    expect(nextStep(planned, bytes, reason).kind).toBe(kind);
  },
);

test('no part number left: a part is refused', () => {
  const full = plan(null, GIB, { parts: MAX_PARTS, tail: [6 * GIB] });
  expect(() => nextStep(full, 0, 'full')).toThrow(AppError);
  const whole = plan(GIB, GIB - 6 * MIB, { parts: MAX_PARTS });
  expect(() => nextStep(whole, 6 * MIB, 'end')).toThrow(AppError);
});

test('a part and an object replace the whole tail, and a segment only many small ones at its end', () => {
  const tail = Array.from({ length: 40 }, () => 1000);
  const few = plan(null, 10_000, { tail: tail.slice(0, 10) });
  expect(nextStep(few, 5 * MIB, 'end').replaces).toEqual(few.state.tail);
  expect(nextStep(few, 1000, 'end')).toEqual({ kind: 'segment', replaces: [] });
  const many = plan(null, 30 * MIB + 40_000, { tail: [30 * MIB, ...tail], parts: 9000 });
  const { kind, replaces } = nextStep(many, 2 * MIB, 'end');
  expect({ kind, replaced: replaces.length }).toEqual({ kind: 'segment', replaced: 40 });
  const whole = plan(50_000, 40_000, { tail });
  expect(nextStep(whole, 10_000, 'end')).toEqual({ kind: 'object', replaces: whole.state.tail });
});

test('whatever is sent for whatever reason, S3 can complete it, and the tail stays short', () => {
  for (let seed = 1; seed <= 400; seed++) run(new Random(seed), seed);
});

/** Sends an upload in random pieces for random reasons. */
function run(random: Random, seed: number): void {
  const size = Math.floor(2 ** (random.next() * 38));
  const planned = plan(random.chance(0.5) ? size : null, 0);
  const parts: number[] = [];
  let keys = 0;
  let longTail = 0;
  for (let steps = 0; planned.offset < size && steps < 3000; steps++) {
    const goal = nextGoal(planned);
    const left = size - planned.offset;
    const isFull = random.chance(0.7);
    const bytes = isFull ? Math.min(goal.bytes, left) : Math.min(random.whole(1, 6 * MIB), goal.bytes, left);
    const reason =
      isFull && bytes === goal.bytes && goal.kind !== 'last' ? 'full' : random.pick(REASONS.slice(1));
    if (bytes === 0 && reason !== 'full') continue;
    const { kind, replaces } = nextStep(planned, bytes, reason);
    const { state } = planned;
    const made: Segment = { key: `made-${keys++}`, size: bytes + bytesOf(replaces) };
    const replaced = state.tail.splice(state.tail.length - replaces.length);
    if (replaced.some((segment, index) => segment !== replaces[index]))
      throw new Error(`seed ${seed}: not the end of the tail`);
    planned.offset += bytes;
    if (kind === 'segment') state.tail.push(made);
    if (kind === 'part') {
      state.multipartId ??= 'id';
      parts.push(made.size);
      state.nextPart++;
    }
    if (kind === 'object' && (made.size !== size || state.multipartId))
      throw new Error(`seed ${seed}: not all`);
    if (state.tail.length > 64)
      longTail = Math.max(longTail, state.tail.filter((segment) => segment.size < MIB).length);
  }
  const isDone = planned.offset === size;
  const isLast = (index: number) => isDone && index === parts.length - 1 && planned.state.tail.length === 0;
  const small = parts.filter((part, index) => part < MIN_PART && !isLast(index));
  expect({ seed, small, tooMany: parts.length > MAX_PARTS, longTail: longTail > 64 }).toEqual({
    seed,
    small: [],
    tooMany: false,
    longTail: false,
  });
}
