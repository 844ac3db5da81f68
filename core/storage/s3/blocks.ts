/*
 * The memory for uploads on their way to S3: uploads share one fixed pool of 64 KiB blocks. An append copies incoming
 * bytes into blocks and takes the next block before it reads more from the socket. An upload without a block stops
 * reading its socket. (Copying costs little. Keeping the sockets' own buffers would cost more, because the garbage
 * collector would have to trace them again and again.)
 *
 * Many slow uploads could hold all blocks while each waits for a full part. Then the uploads that hold the most blocks
 * are asked to send their bytes to the store.
 */

/** Bytes. Small, so that a thousand slow clients waste little memory on blocks that are not full. */
export const BLOCK_SIZE = 64 * 1024;

export interface BlockPool {
  /** Takes a block; a promise for one if none is free. */
  take(): Buffer | Promise<Buffer>;
  /** Announces that this many blocks are being sent and will be given back soon. */
  announce(count: number): void;
  /** Gives back blocks that were announced. */
  give(blocks: Buffer[]): void;
  /** Registers a holder, until the returned function is called. */
  join(holder: Holder): () => void;
}

interface Holder {
  /** How many blocks it holds and has not announced. */
  held(): number;
  /** Begins to send them to the store, or does nothing if that is not possible now. */
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
