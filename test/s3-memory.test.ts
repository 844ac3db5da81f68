import { Pace } from '../core/pace.js';
import { createMemory, type Holder, type Memory } from '../core/storage/s3/memory.js';

/* The memory of uploads on their way to S3: the order in which sinks get it, and which sinks put bytes away for others. */

const MIB = 1024 ** 2;
const KIB = 1024;

interface TestHolder extends Holder {
  bytes: number;
  /** How often it was asked to put its bytes away. */
  asked: number;
  /** Gives back what it has put away. */
  release(): void;
}

function hold(memory: Memory, bytes: number, isMoving = false): TestHolder {
  const holder: TestHolder = {
    bytes: 0,
    asked: 0,
    granted: (more: number) => {
      holder.bytes += more;
    },
    held: () => holder.bytes,
    isMoving: () => isMoving,
    release: () => {},
    putAway() {
      holder.asked++;
      holder.release = memory.leave(holder.bytes);
      holder.bytes = 0;
    },
  };
  memory.join(holder);
  if (bytes > 0) {
    expect(memory.take(bytes, 1)).toBe(true);
    holder.bytes = bytes;
  }
  return holder;
}

test('memory is taken up to the budget, or up to a share of it', () => {
  const memory = createMemory(10 * MIB);
  expect(memory.take(4 * MIB, 0.5)).toBe(true);
  expect(memory.take(2 * MIB, 0.5)).toBe(false);
  expect(memory.take(6 * MIB, 1)).toBe(true);
  expect(memory.take(1, 1)).toBe(false);
});

test('a request for more than the whole budget is granted when nothing else is taken', () => {
  expect(createMemory(MIB).take(2 * MIB, 1)).toBe(true);
});

test('slow holders put their bytes away for one that waits, the largest first and no more than needed', () => {
  const memory = createMemory(10 * MIB);
  const [small, large, moving] = [hold(memory, MIB), hold(memory, 3 * MIB), hold(memory, 6 * MIB, true)];
  const waiting = hold(memory, 0);
  memory.wait(waiting, 2 * MIB);
  expect([small.asked, large.asked, moving.asked, waiting.bytes]).toEqual([0, 1, 0, 0]);
  // The first one's bytes are on their way, so that a second need not ask again.
  const second = hold(memory, 0);
  memory.wait(second, MIB);
  expect([small.asked, moving.asked]).toEqual([0, 0]);
  large.release();
  expect([waiting.bytes, second.bytes]).toEqual([2 * MIB, MIB]);
});

test('those that wait are served in their order, and nobody overtakes them', () => {
  const memory = createMemory(10 * MIB);
  const fast = hold(memory, 8 * MIB, true);
  const [first, second] = [hold(memory, 0), hold(memory, 0)];
  memory.wait(first, 6 * MIB);
  memory.wait(second, MIB);
  expect(memory.take(1, 1)).toBe(false);
  expect([first.bytes, second.bytes]).toEqual([0, 0]);
  memory.leave(fast.bytes)();
  expect([first.bytes, second.bytes]).toEqual([6 * MIB, MIB]);
});

test('when the first that waits leaves, those behind it that need less are served', () => {
  const memory = createMemory(10 * MIB);
  hold(memory, 9 * MIB, true);
  const first: Holder = { granted: () => {}, held: () => 0, isMoving: () => false, putAway: () => {} };
  const leave = memory.join(first);
  const second = hold(memory, 0);
  memory.wait(first, 8 * MIB);
  memory.wait(second, 64 * KIB);
  expect(second.bytes).toBe(0);
  leave();
  expect(second.bytes).toBe(64 * KIB);
});

test('holders that all wait for more do not wait for ever', () => {
  const memory = createMemory(10 * MIB);
  const all = [hold(memory, 5 * MIB), hold(memory, 5 * MIB)];
  for (const holder of all) memory.wait(holder, 2 * MIB);
  expect(all.map(({ asked }) => asked).sort()).toEqual([0, 1]);
  for (const holder of all) holder.release();
  expect(all.map(({ bytes }) => bytes).sort()).toEqual([2 * MIB, 7 * MIB]);
});

test('a holder that stops moving is asked later, although nothing else happens', async () => {
  const memory = createMemory(10 * MIB);
  let isMoving = true;
  const asked = new Promise<void>((resolve) => {
    const holder: Holder = {
      held: () => 10 * MIB,
      isMoving: () => isMoving,
      putAway: resolve,
      granted: () => {},
    };
    memory.join(holder);
    memory.take(10 * MIB, 1);
  });
  memory.wait(hold(memory, 0), MIB);
  isMoving = false;
  await asked;
});

test('many senders gather less each', () => {
  const memory = createMemory(48 * MIB);
  hold(memory, 0);
  expect(memory.step()).toBe(64 * KIB);
  for (let count = 1; count < 5000; count++) hold(memory, 0);
  expect(memory.step()).toBe(8 * KIB);
});

describe('the pace of a sender', () => {
  /** Sends chunks at intervals from time 1000 on. */
  function send(pace: Pace, chunk: number, everyMs: number, count: number): number {
    let now = 1000;
    for (let i = 0; i < count; i++, now += everyMs) pace.note(chunk, now);
    return now - everyMs;
  }

  test.each([
    ['64 KiB a millisecond', 64 * KIB, 1, 10, true],
    ['64 KiB a second', 8 * KIB, 125, 20, false],
    ['one chunk', 64 * KIB, 1, 1, undefined],
  ])('%s', (_what, chunk, everyMs, count, isFast) => {
    const pace = new Pace();
    send(pace, chunk, everyMs, count);
    expect(pace.isFast).toBe(isFast);
  });

  test('the time in which the sink took nothing does not count', () => {
    const pace = new Pace();
    pace.note(64 * KIB, 0);
    pace.pause(1000);
    pace.note(64 * KIB, 1001);
    expect(pace.isFast).toBe(true);
  });

  test('a sender that has stopped will send nothing', () => {
    const pace = new Pace();
    const last = send(pace, 64 * KIB, 1, 100);
    expect(pace.willSend(8 * MIB, 500, last)).toBe(true);
    expect(pace.willSend(80 * MIB, 500, last)).toBe(false);
    expect(pace.willSend(1, 500, last + 300)).toBe(false);
  });
});
