/** A number of bytes that many share. */
export interface ByteBudget {
  /** Takes so many; a promise that is kept when they are free. Those who wait are served in their order. */
  take(bytes: number): Promise<void> | undefined;
  give(bytes: number): void;
}

export function createByteBudget(limit: number): ByteBudget {
  const waiting: { bytes: number; resolve: () => void }[] = [];
  let taken = 0;
  // More than there is at all is given to somebody who is alone.
  const fits = (bytes: number) => taken + bytes <= limit || taken === 0;

  return {
    take(bytes) {
      if (waiting.length > 0 || !fits(bytes)) {
        return new Promise((resolve) => waiting.push({ bytes, resolve }));
      }
      taken += bytes;
      return undefined;
    },
    give(bytes) {
      taken -= bytes;
      for (let next = waiting[0]; next && fits(next.bytes); next = waiting[0]) {
        taken += next.bytes;
        next.resolve();
        waiting.shift();
      }
    },
  };
}
