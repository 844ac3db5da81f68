/*
 * The memory for uploads on their way to S3: all uploads of the process share one budget. A sink takes bytes of it
 * before it holds them, and gives them back when they are stored, or written to the spool. A sink that gets none does
 * not take more from its socket.
 *
 * Fast senders fill a part within a moment and so free their memory by themselves. Slow senders could hold all of it.
 * When a sink waits, those that are slow are asked to put their bytes away: to the spool, or else to the store.
 */

/** A slow sender's bytes are gathered up to one step: large enough for a write, small where there are many senders. */
const LARGEST_STEP = 64 * 1024;
const SMALLEST_STEP = 8 * 1024;

/** One sink takes at most this share of the budget at a time: a part of 8 MiB, with the usual budget. */
const PORTION = 1 / 6;

/** How long until the senders are looked at again while a sink waits, in milliseconds. */
const LOOK_AGAIN_MS = 100;

/** A user of the memory. */
export interface Holder {
  /** Bytes that putAway() would give back. */
  held(): number;
  /** Whether its bytes leave by themselves soon, because its sender is fast. */
  isMoving(): boolean;
  /** Begins to send its bytes elsewhere and announces them with leave(), or does nothing if that is not possible now. */
  putAway(): void;
  /** The bytes that it waited for are taken. */
  granted(bytes: number): void;
}

export interface Memory {
  /** Bytes that are taken now. */
  readonly taken: number;
  /** The most bytes that one sink takes at a time. */
  readonly portion: number;
  /** How many bytes of a slow sender to gather. */
  step(): number;
  /** Takes bytes at once, if then at most `share` of the budget is taken and no holder waits. */
  take(bytes: number, share: number): boolean;
  /** Waits for bytes; holders are served in their order. A holder waits once at a time. */
  wait(holder: Holder, bytes: number): void;
  /** Announces that bytes will be given back soon. The returned function gives them back. */
  leave(bytes: number): () => void;
  /** Registers a holder, until the returned function is called. */
  join(holder: Holder): () => void;
}

/** @param limit bytes */
export function createMemory(limit: number): Memory {
  const holders = new Set<Holder>();
  const waiting = new Map<Holder, number>();
  let taken = 0;
  let leaving = 0;
  let isWatching = false;

  // More than the whole budget is granted when nothing else is taken.
  const fits = (bytes: number, share = 1) => taken + bytes <= limit * share || taken === 0;

  function serve(): void {
    for (const [holder, bytes] of waiting) {
      if (!fits(bytes)) break;
      waiting.delete(holder);
      taken += bytes;
      holder.granted(bytes);
    }
    relieve();
  }

  /** Makes room for the holder that waits first. */
  function relieve(): void {
    const [first] = waiting.values();
    if (first === undefined) return;
    const isShort = () => taken + first > limit + leaving && taken > leaving;
    if (!isShort()) return;
    watch();
    const bySize = [...holders].filter((one) => one.held() > 0).sort((a, b) => b.held() - a.held());
    const slow = bySize.filter((one) => !waiting.has(one) && !one.isMoving());
    // If no holder moves, those that wait for more are in each other's way.
    const isStuck = leaving === 0 && bySize.every((one) => waiting.has(one) || slow.includes(one));
    for (const holder of isStuck ? [...slow, ...bySize.filter((one) => waiting.has(one))] : slow) {
      if (!isShort()) return;
      holder.putAway();
    }
  }

  function watch(): void {
    if (isWatching) return;
    isWatching = true;
    setTimeout(() => {
      isWatching = false;
      relieve();
    }, LOOK_AGAIN_MS).unref();
  }

  return {
    get taken() {
      return taken;
    },
    portion: Math.max(SMALLEST_STEP, Math.floor(limit * PORTION)),
    step: () => Math.max(SMALLEST_STEP, Math.min(LARGEST_STEP, Math.floor(limit / 2 / holders.size))),
    take(bytes, share) {
      if (waiting.size > 0 || !fits(bytes, share)) return false;
      taken += bytes;
      return true;
    },
    wait(holder, bytes) {
      waiting.set(holder, bytes);
      serve();
    },
    leave(bytes) {
      leaving += bytes;
      return () => {
        leaving -= bytes;
        taken -= bytes;
        if (waiting.size > 0) serve();
      };
    },
    join(holder) {
      holders.add(holder);
      return () => {
        holders.delete(holder);
        // Those behind it may need less.
        if (waiting.delete(holder)) serve();
      };
    },
  };
}
