import type { Spool, SpoolFile } from './spool.js';

/** Chunks below this size, or that keep a much larger buffer alive, are copied together. */
const SMALL = 4 * 1024;

/** The bytes of one part, segment or object: the first of them in a spool file, or none, and the rest in memory. */
export class Held {
  /** All bytes. */
  size = 0;
  /** Bytes in memory that are not being written to the spool. */
  memory = 0;
  /** When the first byte came, in milliseconds of performance.now(). */
  since = 0;
  private chunks: Uint8Array[] = [];
  /** The last chunk lies in this block, which has room behind it. */
  private block: { bytes: Buffer; start: number; end: number } | undefined;
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

  /** @param blockSize bytes of a new block for small chunks */
  add(chunk: Uint8Array, blockSize: number): void {
    if (this.size === 0) this.since = performance.now();
    this.size += chunk.byteLength;
    this.memory += chunk.byteLength;
    if (chunk.byteLength >= SMALL && chunk.buffer.byteLength <= 2 * chunk.byteLength) {
      this.seal();
      this.chunks.push(chunk);
    } else {
      this.copy(chunk, blockSize);
    }
  }

  private copy(chunk: Uint8Array, blockSize: number): void {
    for (let done = 0; done < chunk.byteLength; ) {
      if (!this.block || this.block.end === this.block.bytes.length) {
        this.seal();
        this.block = { bytes: Buffer.allocUnsafeSlow(blockSize), start: 0, end: 0 };
      }
      const { bytes, end } = this.block;
      const count = Math.min(bytes.length - end, chunk.byteLength - done);
      bytes.set(chunk.subarray(done, done + count), end);
      this.block.end += count;
      done += count;
    }
  }

  /** Makes a chunk of the bytes in the block. */
  private seal(): void {
    if (!this.block) return;
    const { bytes, start, end } = this.block;
    if (end > start) this.chunks.push(bytes.subarray(start, end));
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
    this.memory = 0;
    this.writing = this.file.write([...this.chunks], bytes).then((isWritten) => {
      this.writing = undefined;
      if (isWritten) this.chunks.splice(0, length);
      else this.memory += bytes;
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

  /** Drops all bytes. */
  drop(): void {
    this.chunks = [];
    this.block = undefined;
    this.file?.close();
  }
}
