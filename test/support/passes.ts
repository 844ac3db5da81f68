import type { Processes } from './processes.js';
import { until } from './until.js';

/** Asks the leading worker for its passes, as a starting worker does, until the condition holds. */
export async function runPasses(
  { database }: Pick<Processes, 'database'>,
  condition: () => Promise<unknown>,
): Promise<void> {
  await until('the passes of the worker', async () => {
    await database.query('NOTIFY pass_wanted');
    return condition();
  });
}
