import type { Request } from 'express';
import { openDatabase } from '../core/database/data-source.js';
import { createLogger } from '../core/log.js';
import { createRefusalCounts } from '../server/auth/refusal-counts.js';
import { createRefusals } from '../server/auth/refusals.js';
import { createDatabase } from './support/database.js';
import { until } from './support/until.js';

/*
 * Refusals add a bounded number of lines to the event log, and each of them is counted there.
 */

const KIND = 'login wrong_credentials';

const address = (n: number) => `10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`;

describe('of the refusals of a window', () => {
  test('the refusals of one network are written one by one at first, and then counted by kind', () => {
    const counts = createRefusalCounts();
    const how = Array.from({ length: 100 }, (_, n) => counts.take('a', n % 2 ? KIND : 'other'));
    expect(how).toEqual([...Array(29).fill('single'), 'last', ...Array(70).fill('counted')]);
    expect(counts.take('b', KIND)).toBe('single');
    expect(counts.drain()).toEqual([{ network: 'a', count: 70, kinds: { [KIND]: 35, other: 35 } }]);
  });

  test('the refusals of any number of networks make a bounded number of lines, and their sum is right', () => {
    const counts = createRefusalCounts();
    const sent = 20_000;
    let lines = 0;
    let last = 0;
    for (let n = 0; n < sent; n++) {
      // Every fifth refusal is of the same network.
      const how = counts.take(n % 5 ? address(n) : 'a', KIND);
      if (how !== 'counted') lines++;
      if (how === 'last') last++;
    }
    expect(lines).toBe(300);
    expect(last).toBe(2);
    const told = counts.drain();
    expect(told).toHaveLength(21);
    expect(told[0]?.network).toBe('a');
    expect(told.filter(({ network }) => network === undefined)).toHaveLength(1);
    expect(told.reduce((sum, { count }) => sum + count, 0)).toBe(sent - lines);
    for (const { count, kinds } of told) expect(kinds).toEqual({ [KIND]: count });
  });

  test('the counts begin anew once they have been taken', () => {
    const counts = createRefusalCounts();
    for (let n = 0; n < 100; n++) counts.take('a', KIND);
    counts.drain();
    expect(counts.drain()).toEqual([]);
    expect(counts.take('a', KIND)).toBe('single');
  });
});

test('counts are written at the end of their window, and again at the end of the next one', async () => {
  const test = await createDatabase();
  const database = await openDatabase(test.url, 'test');
  const log = createLogger('silent', 'test');
  const refusals = createRefusals({ database, log }, 300);
  const refuse = () => {
    const req = {
      ip: '2001:db8::1',
      method: 'GET',
      id: 'request',
      get: () => undefined,
    } as unknown as Request;
    refusals.note(req, { action: 'login', code: 'wrong_credentials' });
  };
  const counted = async () => {
    const { rows } = await test.query(
      `SELECT actor, result, (data -> 'count')::integer AS count FROM all_events WHERE type = 'access.counted'`,
    );
    return rows;
  };
  try {
    for (let round = 1; round <= 2; round++) {
      for (let n = 0; n < 40; n++) refuse();
      const rows = await until('the counts to be written', async () => {
        const found = await counted();
        return found.length === round && found;
      });
      expect(rows.at(-1)).toEqual({ actor: { address: '2001:db8::/64' }, result: 'refused', count: 10 });
    }
    await refusals.flush();
    const { rowCount } = await test.query(`SELECT FROM all_events WHERE type = 'access'`);
    expect(rowCount).toBe(60);
  } finally {
    await database.destroy();
    await test.drop();
  }
});
