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

function recycle(blocks: Buffer[]): void {
  for (const block of blocks) {
    const free = block.length === BLOCK ? large : small;
    if (free.blocks.length < free.most) free.blocks.push(block);
  }
}

/** The bytes of one part, segment or object: the first of them in a spool file, or none, and the rest in memory. */
export class Held {
  /** All bytes. */
  size = 0;
  /** Bytes in memory that are not being written to the spool. */
  memory = 0;
  /** When the first byte came, in milliseconds of performance.now(). */
  since = 0;
  private chunks: Uint8Array[] = [];
  /** The last bytes lie in this block, which has room behind them. */
  private block: { bytes: Buffer; end: number } | undefined;
  /** Blocks in which chunks lie. */
  private blocks: Buffer[] = [];
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
    for (let done = 0; done < chunk.byteLength; ) {
      if (!this.block || this.block.end === this.block.bytes.length) {
        this.seal();
        this.block = { bytes: this.nextBlock(), end: 0 };
        this.blocks.push(this.block.bytes);
      }
      const { bytes, end } = this.block;
      const count = Math.min(bytes.length - end, chunk.byteLength - done);
      bytes.set(chunk.subarray(done, done + count), end);
      this.block.end += count;
      done += count;
    }
  }

  private nextBlock(): Buffer {
    const isLarge = this.memory > BLOCK;
    return (isLarge ? large : small).blocks.pop() ?? Buffer.allocUnsafeSlow(isLarge ? BLOCK : SMALL_BLOCK);
  }

  /** Makes a chunk of the bytes in the block. */
  private seal(): void {
    if (this.block) this.chunks.push(this.block.bytes.subarray(0, this.block.end));
    this.block = undefined;
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
    this.seal();
    const { length } = this.chunks;
    const blocks = this.blocks.length;
    this.memory = 0;
    this.writing = this.file.write([...this.chunks], bytes).then((isWritten) => {
      this.writing = undefined;
      if (isWritten && !this.isDropped) {
        this.chunks.splice(0, length);
        recycle(this.blocks.splice(0, blocks));
      } else {
        this.memory += bytes;
      }
      if (this.isDropped) this.drop();
      done();
    });
    return bytes;
  }

  /** All bytes, when no more are added: an array if they are in memory. May be read more than once. */
  body(): Uint8Array[] | (() => AsyncIterable<Uint8Array>) {
    this.seal();
    if (!this.isOnDisk) return this.chunks;
    return () => this.read();
  }

  private async *read(): AsyncGenerator<Uint8Array> {
    await this.writing;
    if (this.file) yield* this.file.read();
    yield* this.chunks;
  }

  /** Drops all bytes. Nothing may read the body any more. */
  drop(): void {
    this.isDropped = true;
    this.file?.close();
    if (this.writing) return;
    recycle(this.blocks);
    this.blocks = [];
    this.chunks = [];
    this.block = undefined;
  }
}
