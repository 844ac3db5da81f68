import { BLOCK_SIZE, type BlockPool, createBlockPool } from '../core/storage/s3/blocks.js';

/** Holds blocks until asked to put them away, and gives them back when told to. */
function hold(pool: BlockPool, count: number) {
  const blocks = Array.from({ length: count }, () => pool.take() as Buffer);
  const holder = {
    held: count,
    asked: 0,
    give: () => pool.give(blocks),
  };
  pool.join({
    held: () => holder.held,
    putAway() {
      holder.asked++;
      holder.held = 0;
      pool.announce(count);
    },
  });
  return holder;
}

test('a free block is taken at once; when none is free, the largest holder puts its bytes away', async () => {
  const pool = createBlockPool(10 * BLOCK_SIZE);
  const small = hold(pool, 2);
  const large = hold(pool, 6);
  expect([pool.take(), pool.take()].every(Buffer.isBuffer)).toBe(true);
  const wait = pool.take();
  expect(wait).toBeInstanceOf(Promise);
  expect([small.asked, large.asked]).toEqual([0, 1]);
  large.give();
  expect((await wait).byteLength).toBe(BLOCK_SIZE);
  expect(Buffer.isBuffer(pool.take())).toBe(true);
});

test('no more holders are asked than the waiters need', () => {
  const pool = createBlockPool(10 * BLOCK_SIZE);
  const holders = [hold(pool, 5), hold(pool, 3), hold(pool, 2)];
  for (let i = 0; i < 5; i++) void pool.take();
  expect(holders.map(({ asked }) => asked)).toEqual([1, 0, 0]);
  void pool.take();
  expect(holders.map(({ asked }) => asked)).toEqual([1, 1, 0]);
});

test('waiters are served in the order in which they came', async () => {
  const pool = createBlockPool(2 * BLOCK_SIZE);
  const holder = hold(pool, 2);
  const order: string[] = [];
  const first = Promise.resolve(pool.take()).then(() => order.push('first'));
  const second = Promise.resolve(pool.take()).then(() => order.push('second'));
  holder.give();
  await Promise.all([first, second]);
  expect(order).toEqual(['first', 'second']);
});
