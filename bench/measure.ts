import { cpuSeconds, median, peakMemory, resetPeakMemory } from './figures.js';
import type { Contender } from './s3-contenders.js';
import { type Store, sumRequests } from './s3-stores.js';

/** The costs of one run. */
export interface Run {
  seconds: number;
  /** CPU seconds of the server process. */
  cpu: number;
  /** Peak memory in bytes. */
  memory: number;
  /** NaN on a store that does not count. */
  requests: number;
}

/** Measures the server while `work` runs. @param bytes that must have become objects when it has run */
export async function measure(
  server: Contender,
  store: Store,
  bytes: number,
  work: () => Promise<unknown>,
): Promise<Run> {
  await store.takeCounts?.();
  resetPeakMemory(server.pid);
  const cpu = cpuSeconds(server.pid);
  const began = performance.now();
  await work();
  const run = { seconds: (performance.now() - began) / 1000, cpu: cpuSeconds(server.pid) - cpu };
  const counts = await store.takeCounts?.();
  if (counts && counts.stored < bytes)
    throw new Error(`${server.bucket}: only ${counts.stored} bytes arrived`);
  return { ...run, memory: peakMemory(server.pid), requests: counts ? sumRequests(counts) : NaN };
}

/** The median of one figure for each contender. */
export function medians<T>(results: Map<string, T[]>, figure: (result: T) => number): Record<string, number> {
  return Object.fromEntries([...results].map(([name, all]) => [name, median(all.map(figure))]));
}
