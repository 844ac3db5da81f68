import type { Spool, SpoolFile } from './spool.js';

/*
 * Bytes are copied into blocks that are used again and again. Copying costs less than the garbage collector would need for
 * the sockets' own buffers: with eight uploads at a time, keeping those took 1.2 to 1.4 times the CPU.
 */

/** Bytes of a block: small ones first, because thousands of slow senders hold one each. */
const SMALL_BLOCK = 16 * 1024;
const BLOCK = 64 * 1024;

/** Blocks that are kept for later use. */
const small: Free = { blocks: [], most: (16 * 1024 ** 2) / SMALL_BLOCK };
const large: Free = { blocks: [], most: (48 * 1024 ** 2) / BLOCK };

interface Free {
  blocks: Buffer[];
  most: number;
}

/** Consecutive bytes in blocks. All blocks but the last are full. */
interface Run {
  blocks: Buffer[];
  /** Bytes in the last block. */
  end: number;
}

function recycle(runs: Run[]): void {
  for (const { blocks } of runs) {
    for (const block of blocks) {
      const free = block.length === BLOCK ? large : small;
      if (free.blocks.length < free.most) free.blocks.push(block);
    }
  }
}

/** Views of the bytes. They are made only when they are needed: the collector would move what lives for a second. */
function viewsOf(runs: Run[]): Uint8Array[] {
  return runs.flatMap(({ blocks, end }) =>
    blocks.map((block, i) => (i < blocks.length - 1 ? block : block.subarray(0, end))),
  );
}

/** The bytes of one part, segment or object: the first of them in a spool file, or none, and the rest in memory. */
export class Held {
  /** All bytes. */
  size = 0;
  /** Bytes in memory that are not being written to the spool. */
  memory = 0;
  /** When the first byte came, in milliseconds of performance.now(). */
  since = 0;
  /** The bytes in memory, without those that are being written. */
  private runs: Run[] = [];
  private isDropped = false;
  private file: SpoolFile | undefined;
  private writing: Promise<void> | undefined;

  constructor(private readonly spool: Spool) {}

  /** Whether bytes are in the spool, or on their way to it. */
  get isOnDisk(): boolean {
    return this.writing !== undefined || (this.file?.size ?? 0) > 0;
  }

  get isWriting(): boolean {
    return this.writing !== undefined;
  }

  add(chunk: Uint8Array): void {
    if (this.size === 0) this.since = performance.now();
    this.size += chunk.byteLength;
    this.memory += chunk.byteLength;
    if (this.runs.length === 0) this.runs.push({ blocks: [], end: 0 });
    const run = this.runs[this.runs.length - 1] as Run;
    for (let done = 0; done < chunk.byteLength; ) {
      let block = run.blocks[run.blocks.length - 1];
      if (!block || run.end === block.length) {
        block = this.nextBlock();
        run.blocks.push(block);
        run.end = 0;
      }
      const count = Math.min(block.length - run.end, chunk.byteLength - done);
      block.set(count === chunk.byteLength ? chunk : chunk.subarray(done, done + count), run.end);
      run.end += count;
      done += count;
    }
  }

  private nextBlock(): Buffer {
    const isLarge = this.memory > BLOCK;
    return (isLarge ? large : small).blocks.pop() ?? Buffer.allocUnsafeSlow(isLarge ? BLOCK : SMALL_BLOCK);
  }

  /**
   * Begins to write the bytes in memory to the spool.
   * @param done called when they are there, or stay in memory because the spool has failed
   * @returns how many bytes they are; 0 when nothing begins, because there is no room or the last write is under way
   */
  putAway(done: () => void): number {
    const bytes = this.memory;
    if (bytes === 0 || this.writing) return 0;
    this.file ??= this.spool.create();
    if (!this.file.reserve(bytes)) return 0;
    const { runs } = this;
    this.runs = [];
    this.memory = 0;
    this.writing = this.file.write(viewsOf(runs), bytes).then((isWritten) => {
      this.writing = undefined;
      if (isWritten) {
        recycle(runs);
      } else {
        this.memory += bytes;
        this.runs.unshift(...runs);
      }
      if (this.isDropped) this.drop();
      done();
    });
    return bytes;
  }

  /** All bytes, when no more are added: an array if they are in memory. May be read more than once. */
  body(): Uint8Array[] | (() => AsyncIterable<Uint8Array>) {
    if (!this.isOnDisk) return viewsOf(this.runs);
    return () => this.read();
  }

  private async *read(): AsyncGenerator<Uint8Array> {
    await this.writing;
    if (this.file) yield* this.file.read();
    yield* viewsOf(this.runs);
  }

  /** Drops all bytes. Nothing may read the body any more. */
  drop(): void {
    this.isDropped = true;
    this.file?.close();
    if (this.writing) return;
    recycle(this.runs);
    this.runs = [];
  }
}
