import { ROW, rowWindow } from '../web/files/row-window.js';
import { largestSize, refusalOf } from '../web/uploads/limits.js';
import { createRate } from '../web/uploads/rate.js';

/* What the page reckons for itself: speeds, limits, and which rows of a list it draws. */

describe('the speed of an upload', () => {
  test('is that of the last seconds, and falls to nothing while no bytes move', () => {
    const rate = createRate();
    for (let second = 0; second <= 20; second++) rate.note(second * 1000, second * 1000);
    expect(rate.perSecond(20_000)).toBe(1000);
    for (let second = 21; second <= 26; second++) rate.note(20_000, second * 1000);
    expect(rate.perSecond(26_000)).toBe(0);
  });

  test('does not count what was sent before an interruption', () => {
    const rate = createRate();
    rate.note(900_000, 0);
    rate.note(950_000, 100);
    // The new connection begins at what the server has.
    rate.note(500_000, 200);
    expect(rate.perSecond(300)).toBe(0);
    rate.note(501_000, 1200);
    expect(rate.perSecond(1200)).toBe(1000);
    rate.reset();
    expect(rate.perSecond(5000)).toBe(0);
  });
});

describe('the limits of sizes', () => {
  const limits = {
    maxSize: 1000,
    maxSizeByType: [
      { type: 'image/*', maxSize: 100 },
      { type: 'image/png', maxSize: 300 },
      { type: 'application/octet-stream', maxSize: 50 },
    ],
  };

  test.each([
    ['image/png', 300],
    ['image/PNG; a=b', 300],
    ['image/jpeg', 100],
    ['text/plain', 1000],
    ['', 50],
  ])('of %j is %d bytes', (type, size) => {
    expect(largestSize(limits, type)).toBe(size);
    expect(refusalOf(limits, { size, type })).toBeUndefined();
    expect(refusalOf(limits, { size: size + 1, type })).toMatch(/^Too large: /);
  });
});

describe('the rows that are drawn', () => {
  test.each([
    ['at the top', 0, 100_000],
    ['in the middle', 3_000_000, 100_000],
    ['at the end', 100_000 * ROW - 800, 100_000],
    ['beyond the end, after rows went', 90_000, 20],
    ['of a list without rows', 0, 0],
    ['before the list begins', -400, 5],
  ])('%s are few, and keep the height of the list', (_where, top, count) => {
    const { start, end, above, below } = rowWindow(top, 800, count);
    expect(end - start).toBeLessThanOrEqual(35);
    expect(above + (end - start) * ROW + below).toBe(count * ROW);
    expect(start).toBeGreaterThanOrEqual(0);
    expect(end).toBeLessThanOrEqual(count);
    const lastSeen = Math.min(count, Math.ceil((top + 800) / ROW));
    if (top >= 0 && top < count * ROW) expect([start * ROW <= top, end >= lastSeen]).toEqual([true, true]);
  });
});
