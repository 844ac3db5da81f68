import { createByteBudget } from '../core/storage/byte-budget.js';

/** Takes bytes, and notes `name` once it has them. */
function taker(limit: number) {
  const budget = createByteBudget(limit);
  const got: string[] = [];
  return {
    ...budget,
    got,
    async take(name: string, bytes: number) {
      await budget.take(bytes);
      got.push(name);
    },
  };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('a caller takes free bytes at once', () => {
  const budget = createByteBudget(10);
  expect([budget.take(4), budget.take(6)]).toEqual([undefined, undefined]);
  expect(budget.take(1)).toBeInstanceOf(Promise);
});

test('waiters are served in the order in which they came', async () => {
  const budget = taker(10);
  await budget.take('first', 8);
  void budget.take('large', 5);
  void budget.take('small', 1);
  await turn();
  expect(budget.got).toEqual(['first']);
  budget.give(8);
  await turn();
  expect(budget.got).toEqual(['first', 'large', 'small']);
});

test('a caller that wants more than the whole budget gets it when nothing else is taken', async () => {
  const budget = taker(10);
  await budget.take('some', 1);
  void budget.take('all', 100);
  await turn();
  expect(budget.got).toEqual(['some']);
  budget.give(1);
  await turn();
  expect(budget.got).toEqual(['some', 'all']);
  void budget.take('later', 1);
  await turn();
  expect(budget.got).toHaveLength(2);
  budget.give(100);
  await turn();
  expect(budget.got).toHaveLength(3);
});
