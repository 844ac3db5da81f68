import type { TestDatabase } from './database.js';

interface Plan {
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  Plans?: Plan[];
}

/**
 * How many rows a statement reads, also those that it filters out. The statement is carried out and rolled
 * back.
 */
export async function countRead(
  database: Pick<TestDatabase, 'query'>,
  text: string,
  values: unknown[],
): Promise<number> {
  await database.query('BEGIN');
  const { rows } = await database.query(`EXPLAIN (ANALYZE, FORMAT JSON) ${text}`, values);
  await database.query('ROLLBACK');
  return sum(rows[0]['QUERY PLAN'][0].Plan);
}

function sum(plan: Plan): number {
  const removed = (plan['Rows Removed by Filter'] ?? 0) + (plan['Rows Removed by Index Recheck'] ?? 0);
  const own = (plan['Actual Rows'] + removed) * plan['Actual Loops'];
  return (plan.Plans ?? []).reduce((total, part) => total + sum(part), own);
}
