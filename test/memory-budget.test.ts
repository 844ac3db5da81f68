import { createMemoryBudget, type MemoryBudget } from '../core/storage/s3/memory-budget.js';

/** Holds `bytes` until asked to put them away, and gives them back when told to. */
function holder(budget: MemoryBudget, bytes: number) {
  const state = { held: bytes, asked: 0, give: () => budget.give(bytes) };
  budget.take(bytes);
  budget.join({
    held: () => state.held,
    putAway() {
      state.asked++;
      state.held = 0;
      budget.announce(bytes);
    },
  });
  return state;
}

async function isSettled(promise: Promise<void> | undefined): Promise<boolean> {
  return Promise.race([Promise.resolve(promise).then(() => true), Promise.resolve().then(() => false)]);
}

test('what is there is taken at once; who holds most puts its bytes away for who comes then', async () => {
  const budget = createMemoryBudget(100);
  const small = holder(budget, 20);
  const large = holder(budget, 60);
  expect(budget.take(20)).toBeUndefined();
  const wait = budget.take(10);
  expect([small.asked, large.asked]).toEqual([0, 1]);
  expect(await isSettled(wait)).toBe(false);
  large.give();
  await wait;
});

test('nobody is asked for more than is wanted', () => {
  const budget = createMemoryBudget(100);
  const holders = [holder(budget, 50), holder(budget, 30), holder(budget, 20)];
  for (let i = 0; i < 5; i++) budget.take(10);
  expect(holders.map(({ asked }) => asked)).toEqual([1, 0, 0]);
  budget.take(10);
  expect(holders.map(({ asked }) => asked)).toEqual([1, 1, 0]);
});

test('those who wait are served in their order, and one that is larger than all of it passes alone', async () => {
  const budget = createMemoryBudget(100);
  budget.take(100);
  const order: string[] = [];
  const first = budget.take(150)?.then(() => order.push('large'));
  const second = budget.take(1)?.then(() => order.push('small'));
  budget.announce(100);
  budget.give(100);
  await first;
  expect(order).toEqual(['large']);
  budget.announce(150);
  budget.give(150);
  await second;
  expect(order).toEqual(['large', 'small']);
});
