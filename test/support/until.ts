import { setTimeout as pause } from 'node:timers/promises';

/** Each question costs the asked process CPU, so until() rests longer the longer it has waited. */
const SHORTEST_REST_MS = 25;
const LONGEST_REST_MS = 100;

/**
 * Asks `condition` again and again until it returns something, and returns that.
 * @throws when that takes longer than `seconds`
 */
export async function until<T>(
  what: string,
  condition: () => Promise<T | undefined | false | null> | T | undefined | false | null,
  seconds = 90,
): Promise<T> {
  const start = Date.now();
  for (;;) {
    const value = await condition();
    if (value) return value;
    const waited = Date.now() - start;
    if (waited > seconds * 1000) throw new Error(`waited ${seconds} s in vain for: ${what}`);
    await pause(Math.min(Math.max(waited / 20, SHORTEST_REST_MS), LONGEST_REST_MS));
  }
}
