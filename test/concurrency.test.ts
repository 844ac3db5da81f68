import { setTimeout as pause } from 'node:timers/promises';
import { createLimiter, forEachOf, TimedOut, within } from '../core/concurrency.js';

describe('within', () => {
  it('returns the result of the work, or throws its error', async () => {
    await expect(within(1000, Promise.resolve(7), 'work')).resolves.toBe(7);
    await expect(within(1000, Promise.reject(new RangeError('no')), 'work')).rejects.toThrow(RangeError);
  });

  it('stops waiting after its time, and a later failure of the work has no effect', async () => {
    const work = pause(20).then(() => Promise.reject(new Error('too late')));
    await expect(within(1, work, 'work')).rejects.toThrow(TimedOut);
    await expect(work).rejects.toThrow('too late');
  });
});

describe('forEachOf', () => {
  it('comes to every item, never more than so many at once', async () => {
    let running = 0;
    let most = 0;
    const seen: number[] = [];
    await forEachOf([1, 2, 3, 4, 5, 6, 7], 3, async (item) => {
      most = Math.max(most, ++running);
      await pause(1);
      running--;
      seen.push(item);
    });
    expect(seen.sort()).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(most).toBe(3);
  });

  it('begins with no further item after one has failed', async () => {
    const begun: number[] = [];
    const run = forEachOf([1, 2, 3, 4], 1, async (item) => {
      begun.push(item);
      if (item === 2) throw new Error('broken');
    });
    await expect(run).rejects.toThrow('broken');
    expect(begun).toEqual([1, 2]);
  });
});

describe('a limiter', () => {
  it('runs so many at once, in their order, and returns the result of each', async () => {
    const limited = createLimiter(2);
    let running = 0;
    let most = 0;
    const begun: number[] = [];
    const work = async (n: number) => {
      begun.push(n);
      most = Math.max(most, ++running);
      await pause(1);
      running--;
      if (n === 3) throw new Error('broken');
      return n;
    };
    const results = await Promise.allSettled([1, 2, 3, 4, 5].map((n) => limited(() => work(n))));
    expect(results.map((result) => (result.status === 'fulfilled' ? result.value : 'broken'))).toEqual([
      1,
      2,
      'broken',
      4,
      5,
    ]);
    expect(begun).toEqual([1, 2, 3, 4, 5]);
    expect(most).toBe(2);
  });
});
