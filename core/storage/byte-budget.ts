/** A budget of bytes that all uploads of a process share. */
export interface ByteBudget {
  /** Bytes that are taken now. */
  readonly taken: number;
  /** Takes bytes; returns a promise when it has to wait until they are free. Waiters are served in their order. */
  take(bytes: number): Promise<void> | undefined;
  give(bytes: number): void;
}

export function createByteBudget(limit: number): ByteBudget {
  const waiting: { bytes: number; resolve: () => void }[] = [];
  let taken = 0;
  // A request for more than the whole budget is granted when nothing else is taken.
  const fits = (bytes: number) => taken + bytes <= limit || taken === 0;

  return {
    get taken() {
      return taken;
    },
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
