import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { TaskInput } from '../task-input.js';
import { sourceOf } from './byte-source.js';
import type { Description } from './description.js';
import { createListing } from './listing.js';
import { isHeader, listTar } from './tar.js';

/* Lists GZIP files (RFC 1952): one file, or a TAR archive within. */

/** Bytes that are decompressed at most. They are counted, and not kept. */
const MAX_OUTPUT = 256 * 1024 ** 2;

const BLOCK = 512;

/** Flags of the header (RFC 1952, 2.3.1). */
const FEXTRA = 4;
const FNAME = 8;

/** Ends the decompression of what may be a bomb. */
class Enough extends Error {}

export async function describeGzip({ bytes, size }: TaskInput): Promise<Description> {
  const isPart = bytes.length < size;
  const first = await sourceOf(decompress(bytes))
    .read(BLOCK)
    .catch(() => Buffer.alloc(0));
  const isTar = first.length === BLOCK && isHeader(first);
  const listing = createListing();
  const count = { bytes: 0 };
  const source = sourceOf(decompress(bytes, count));
  const more = { format: isTar ? 'tar+gzip' : 'gzip' };
  let problem: string | undefined;
  try {
    if (isTar) problem = await listTar(source, listing);
    else await source.skip(Number.POSITIVE_INFINITY);
  } catch (error) {
    if (error instanceof Enough || isPart) Object.assign(more, { complete: false });
    else problem = 'The compressed data is damaged or cut off';
  }
  if (!isTar) {
    const name = nameIn(bytes);
    listing.add(name, count.bytes);
    if (name.length === 0) Object.assign(more, { names: [] });
  }
  return listing.describe(more, isPart ? undefined : problem);
}

/** @param count the bytes so far @throws {Enough} behind MAX_OUTPUT bytes */
async function* decompress(bytes: Buffer, count = { bytes: 0 }): AsyncGenerator<Buffer> {
  for await (const chunk of Readable.from([bytes]).pipe(createGunzip())) {
    count.bytes += chunk.length;
    if (count.bytes > MAX_OUTPUT) throw new Enough();
    yield chunk;
  }
}

/** The name of the file before it was compressed, if the header has it. */
function nameIn(bytes: Buffer): Buffer {
  const flags = bytes[3] ?? 0;
  const none = Buffer.alloc(0);
  if ((flags & FNAME) === 0 || bytes.length < 12) return none;
  const start = 10 + ((flags & FEXTRA) === 0 ? 0 : 2 + bytes.readUInt16LE(10));
  const end = bytes.indexOf(0, start);
  return end < 0 ? none : bytes.subarray(start, end);
}
