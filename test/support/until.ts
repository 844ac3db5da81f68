import { setTimeout as pause } from 'node:timers/promises';

/**
 * Asks `condition` again and again until it returns something, and returns that.
 * @throws when that takes longer than `seconds`
 */
export async function until<T>(
  what: string,
  condition: () => Promise<T | undefined | false | null> | T | undefined | false | null,
  seconds = 90,
): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain for: ${what}`);
    await pause(25);
  }
}
