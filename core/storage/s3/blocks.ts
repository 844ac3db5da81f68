/*
 * The memory for uploads on their way to S3: a number of blocks for the whole process. Who receives bytes copies them
 * into blocks, and asks for the next block before it asks the socket for more, so a spent pool is felt as back-pressure.
 * (Copying costs little; keeping what the sockets give would cost more, because the garbage collector would have to
 * find out again and again that it is still needed.)
 *
 * Many slow uploads could hold all blocks, each waiting for a part's worth of bytes: whoever holds most is then asked
 * to put its bytes away.
 */

/** Bytes. Small enough that a thousand slow clients do not need more than their bytes. */
export const BLOCK_SIZE = 64 * 1024;

export interface BlockPool {
  /** Takes a block; a promise for one if none is free. */
  take(): Buffer | Promise<Buffer>;
  /** Says that so many blocks are on their way out and will be given back soon. */
  announce(count: number): void;
  /** Gives back blocks that were announced. */
  give(blocks: Buffer[]): void;
  /** Makes a holder known, until the returned function is called. */
  join(holder: Holder): () => void;
}

interface Holder {
  /** How many blocks it holds and has not announced. */
  held(): number;
  /** Begins to put them away, or does nothing if that is not possible now. */
  putAway(): void;
}

/** @param limit bytes */
export function createBlockPool(limit: number): BlockPool {
  const holders = new Set<Holder>();
  const waiting: ((block: Buffer) => void)[] = [];
  const free: Buffer[] = [];
  let unmade = Math.floor(limit / BLOCK_SIZE);
  let leaving = 0;

  function find(): Buffer | undefined {
    const block = free.pop();
    if (block || unmade === 0) return block;
    unmade--;
    return Buffer.allocUnsafeSlow(BLOCK_SIZE);
  }

  function relieve(): void {
    if (leaving >= waiting.length) return;
    const byHeld = [...holders].sort((a, b) => b.held() - a.held());
    for (const holder of byHeld) {
      if (leaving >= waiting.length || holder.held() === 0) return;
      holder.putAway();
    }
  }

  return {
    take() {
      const block = waiting.length === 0 ? find() : undefined;
      if (block) return block;
      return new Promise((resolve) => {
        waiting.push(resolve);
        relieve();
      });
    },
    announce(count) {
      leaving += count;
    },
    give(blocks) {
      leaving -= blocks.length;
      for (const block of blocks) {
        const next = waiting.shift();
        if (next) next(block);
        else free.push(block);
      }
      if (waiting.length > 0) relieve();
    },
    join(holder) {
      holders.add(holder);
      return () => holders.delete(holder);
    },
  };
}
