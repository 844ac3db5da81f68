/* The speed of an upload, from the bytes of the last seconds: what was sent before a pause or a reload does not count. */

const WINDOW_MS = 5_000;
/** A shorter time says nothing about the speed. */
const ENOUGH_MS = 500;

export interface Rate {
  /** @param sent bytes in all @param now milliseconds */
  note(sent: number, now: number): void;
  reset(): void;
  /** Bytes a second; 0 while it is not known. */
  perSecond(now: number): number;
}

export function createRate(): Rate {
  let samples: { at: number; sent: number }[] = [];
  return {
    note(sent, now) {
      const last = samples.at(-1);
      // A connection that begins anew goes back to what the server has.
      if (last && sent < last.sent) samples = [];
      samples.push({ at: now, sent });
      while (samples[1] && now - samples[1].at >= WINDOW_MS) samples.shift();
    },
    reset() {
      samples = [];
    },
    perSecond(now) {
      const [first] = samples;
      const last = samples.at(-1);
      if (!first || !last || now - first.at < ENOUGH_MS) return 0;
      return ((last.sent - first.sent) * 1000) / (now - first.at);
    },
  };
}
