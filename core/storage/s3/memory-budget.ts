/*
 * What uploads may hold in memory, for the whole process. Who receives a chunk takes its bytes from the budget before
 * it asks for the next one, so a spent budget is felt as back-pressure on the sockets. Many slow uploads could hold
 * all of it, each waiting for a part's worth of bytes; whoever holds most of them is then asked to put its bytes away.
 */

export interface MemoryBudget {
  /** Takes `bytes`. If they are not there, returns a promise for when they are. */
  take(bytes: number): Promise<void> | undefined;
  /** Says that bytes are on their way out and will be given back soon. */
  announce(bytes: number): void;
  /** Gives back bytes that were announced. */
  give(bytes: number): void;
  /** Makes a holder known, until the returned function is called. */
  join(holder: Holder): () => void;
}

export interface Holder {
  /** Bytes that it holds and has not announced. */
  held(): number;
  /** Begins to put them away, or does nothing if that is not possible now. */
  putAway(): void;
}

/** @param limit bytes */
export function createMemoryBudget(limit: number): MemoryBudget {
  const holders = new Set<Holder>();
  const waiting: { bytes: number; resolve: () => void }[] = [];
  let free = limit;
  let leaving = 0;
  let wanted = 0;

  function relieve(): void {
    if (leaving >= wanted) return;
    const byHeld = [...holders].sort((a, b) => b.held() - a.held());
    for (const holder of byHeld) {
      if (leaving >= wanted || holder.held() === 0) return;
      holder.putAway();
    }
  }

  function serve(): void {
    // A chunk larger than the whole budget must pass too, alone.
    for (let next = waiting[0]; next && (free >= next.bytes || free >= limit); next = waiting[0]) {
      waiting.shift();
      free -= next.bytes;
      wanted -= next.bytes;
      next.resolve();
    }
  }

  return {
    take(bytes) {
      if (waiting.length === 0 && free >= bytes) {
        free -= bytes;
        return undefined;
      }
      return new Promise((resolve) => {
        waiting.push({ bytes, resolve });
        wanted += bytes;
        relieve();
        serve();
      });
    },
    announce(bytes) {
      leaving += bytes;
    },
    give(bytes) {
      free += bytes;
      leaving -= bytes;
      serve();
      if (waiting.length > 0) relieve();
    },
    join(holder) {
      holders.add(holder);
      return () => holders.delete(holder);
    },
  };
}
