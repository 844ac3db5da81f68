import { inflateRawSync } from 'node:zlib';
import type { Bytes } from './format.js';
import { latin1 } from './plain-text.js';

/*
 * Reads the central directory of a ZIP archive (PKWARE APPNOTE 4.3), which is at the end of the archive, and single
 * entries.
 */

export interface Entry {
  /** Its bytes as Latin-1. */
  name: string;
  method: number;
  /** Bytes, as the directory tells. */
  compressedSize: number;
  size: number;
  isEncrypted: boolean;
  /** Position of its local header, from the start of the archive. */
  offset: number;
}

export interface Directory {
  entries: Entry[];
  /** How many entries the archive has; more than `entries` if the sample holds only the end of the directory. */
  count: number;
}

const END = 0x06054b50;
const END_LENGTH = 22;
const MAX_COMMENT = 0xffff;
const LOCATOR_64 = 0x07064b50;
const LOCATOR_64_LENGTH = 20;
const END_64 = 0x06064b50;
const END_64_LENGTH = 56;
const CENTRAL = 0x02014b50;
const CENTRAL_MAGIC = Buffer.from('PK\x01\x02', 'latin1');
const CENTRAL_LENGTH = 46;
const LOCAL = 0x04034b50;
const LOCAL_LENGTH = 30;

/** The extra field that holds numbers of eight bytes, and what stands in their place otherwise (4.5.3). */
const EXTRA_64 = 1;
const IN_EXTRA = 0xffffffff;

/** Compression methods (4.4.5). */
const STORED = 0;
const DEFLATED = 8;

/** How many positions are tried when the start of the directory is not known. */
const MAX_TRIES = 100;

/** @returns undefined if the end of the directory is missing */
export function readDirectory({ tail }: Pick<Bytes, 'tail'>): Directory | undefined {
  const view = viewOf(tail);
  const end = findEnd(view);
  if (end === undefined) return undefined;
  // The directory ends right before its end record. Ignore the record's offset: other bytes may precede the archive.
  const { start, limit, count } = readEnd64(view, end) ?? {
    start: end - view.getUint32(end + 12, true),
    limit: end,
    count: view.getUint16(end + 10, true),
  };
  if (start >= 0 && (count === 0 || isAt(view, start, CENTRAL))) {
    return { entries: readEntries(tail, start, limit).entries, count };
  }
  // The start is outside the sample. Try each position that looks like an entry: only a real one leads to the end record.
  const kept = Buffer.from(tail.buffer, tail.byteOffset, limit);
  let at = kept.indexOf(CENTRAL_MAGIC);
  for (let tries = 0; at >= 0 && tries < MAX_TRIES; tries++) {
    const { entries, next } = readEntries(tail, at, limit);
    if (next === limit || isAt(view, next, END_64)) return { entries, count };
    at = kept.indexOf(CENTRAL_MAGIC, at + 1);
  }
  return { entries: [], count };
}

/** The end record of archives that are large or have many entries; undefined: there is none. */
function readEnd64(view: DataView, end: number): { start: number; limit: number; count: number } | undefined {
  if (!isAt(view, end - LOCATOR_64_LENGTH, LOCATOR_64)) return undefined;
  const limit = end - LOCATOR_64_LENGTH - END_64_LENGTH;
  if (!isAt(view, limit, END_64)) return undefined;
  const [count, length] = [32, 40].map((at) => Number(view.getBigUint64(limit + at, true)));
  return { start: limit - (length ?? 0), limit, count: count ?? 0 };
}

/** @returns the entries from `start` on, and the position after the last one */
function readEntries(tail: Uint8Array, start: number, limit: number): { entries: Entry[]; next: number } {
  const view = viewOf(tail);
  const entries: Entry[] = [];
  let at = start;
  while (at + CENTRAL_LENGTH <= limit && isAt(view, at, CENTRAL)) {
    const name = at + CENTRAL_LENGTH;
    const extra = name + view.getUint16(at + 28, true);
    const comment = extra + view.getUint16(at + 30, true);
    const wide = readExtra64(view, extra, Math.min(comment, limit));
    // The order in the extra field; only numbers that do not fit into four bytes are there.
    const [size, compressedSize, offset] = [24, 20, 42].map((place) => {
      const number = view.getUint32(at + place, true);
      return number === IN_EXTRA ? (wide.shift() ?? number) : number;
    });
    entries.push({
      name: latin1(tail.subarray(name, extra)),
      method: view.getUint16(at + 10, true),
      isEncrypted: (view.getUint16(at + 8, true) & 1) === 1,
      size: size ?? 0,
      compressedSize: compressedSize ?? 0,
      offset: offset ?? 0,
    });
    at = comment + view.getUint16(at + 32, true);
  }
  return { entries, next: at };
}

/** The numbers of eight bytes in the extra fields between two positions. */
function readExtra64(view: DataView, start: number, end: number): number[] {
  for (let at = start; at + 4 <= end; ) {
    const length = view.getUint16(at + 2, true);
    const next = at + 4 + length;
    if (view.getUint16(at, true) === EXTRA_64 && next <= end) {
      const places = Array.from({ length: Math.min(3, length >> 3) }, (_, index) => at + 4 + 8 * index);
      return places.map((place) => Number(view.getBigUint64(place, true)));
    }
    at = next;
  }
  return [];
}

function findEnd(view: DataView): number | undefined {
  const first = Math.max(0, view.byteLength - END_LENGTH - MAX_COMMENT);
  for (let at = view.byteLength - END_LENGTH; at >= first; at--) {
    if (view.getUint32(at, true) === END) return at;
  }
  return undefined;
}

const isAt = (view: DataView, at: number, signature: number) =>
  at >= 0 && at + 4 <= view.byteLength && view.getUint32(at, true) === signature;

/** The content of an entry; undefined: it is outside the sample, larger than `maxBytes`, or cannot be read. */
export function readEntry(
  { head, tail, size }: Bytes,
  { offset, method, compressedSize, isEncrypted }: Entry,
  maxBytes: number,
): Buffer | undefined {
  const isDeflated = method === DEFLATED;
  if (compressedSize > maxBytes || isEncrypted || (!isDeflated && method !== STORED)) return undefined;
  const inTail = offset >= size - tail.length;
  const kept = inTail ? tail : head;
  const at = inTail ? offset - (size - tail.length) : offset;
  if (at + LOCAL_LENGTH > kept.length) return undefined;
  const view = viewOf(kept);
  if (!isAt(view, at, LOCAL)) return undefined;
  const start = at + LOCAL_LENGTH + view.getUint16(at + 26, true) + view.getUint16(at + 28, true);
  if (start + compressedSize > kept.length) return undefined;
  const content = Buffer.from(kept.buffer, kept.byteOffset + start, compressedSize);
  try {
    return isDeflated ? inflateRawSync(content, { maxOutputLength: maxBytes }) : content;
  } catch {
    return undefined;
  }
}

const viewOf = ({ buffer, byteOffset, length }: Uint8Array) => new DataView(buffer, byteOffset, length);
