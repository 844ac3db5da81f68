/** Bytes that are read one part after the other. */
export interface ByteSource {
  /** @returns the next bytes, fewer than `count` only at the end */
  read(count: number): Promise<Buffer>;
  /** @returns how many bytes were skipped, fewer than `count` only at the end */
  skip(count: number): Promise<number>;
}

/** @param chunks read only as far as they are needed */
export function sourceOf(chunks: Iterable<Buffer> | AsyncIterable<Buffer>): ByteSource {
  const iterator = (async function* () {
    yield* chunks;
  })();
  let chunk: Buffer = Buffer.alloc(0);

  /** The next bytes, at most `count`; none at the end. */
  async function next(count: number): Promise<Buffer> {
    while (chunk.length === 0) {
      const { done, value } = await iterator.next();
      if (done) return chunk;
      chunk = value;
    }
    const part = chunk.subarray(0, count);
    chunk = chunk.subarray(part.length);
    return part;
  }

  return {
    async read(count) {
      const parts: Buffer[] = [];
      for (let left = count; left > 0; ) {
        const part = await next(left);
        if (part.length === 0) break;
        parts.push(part);
        left -= part.length;
      }
      return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
    },
    async skip(count) {
      let left = count;
      while (left > 0) {
        const part = await next(left);
        if (part.length === 0) break;
        left -= part.length;
      }
      return count - left;
    },
  };
}
