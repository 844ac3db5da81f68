import type { TaskInput } from '../task-input.js';
import type { ByteSource } from './byte-source.js';
import { sourceOf } from './byte-source.js';
import type { Description } from './description.js';
import { createListing, type Listing } from './listing.js';

/*
 * Lists TAR archives: POSIX ustar and pax (IEEE Std 1003.1, pax), with the long names and large numbers of GNU tar
 * (https://www.gnu.org/software/tar/manual/html_node/Standard.html).
 */

const BLOCK = 512;

/** Bytes of a long name, or of a pax header, that are read. */
const MAX_EXTENSION = 64 * 1024;

/** Kinds of entries that describe the entry behind them, or all others. */
const GNU_LONG_NAME = 'L';
const PAX = 'x';
const NO_FILES = ['K', 'g', 'V'];

/** A part of an archive that is too large to be held is listed as far as it goes. */
export async function describeTar({ bytes, size }: TaskInput): Promise<Description> {
  const listing = createListing();
  const problem = await listTar(sourceOf([bytes]), listing);
  const format = 'tar';
  if (bytes.length < size) return { ...listing.describe({ format, complete: false }), warnings: [] };
  return listing.describe({ format }, problem);
}

/** @returns what is wrong with the archive; undefined: nothing */
export async function listTar(source: ByteSource, listing: Listing): Promise<string | undefined> {
  /** Of the next entry, when a header before it tells. */
  let told: { name?: Uint8Array; size?: number } = {};
  for (;;) {
    const header = await source.read(BLOCK);
    if (header.length < BLOCK) return 'The end of the archive is missing: it is cut off';
    if (header.every((byte) => byte === 0)) return undefined;
    if (!isHeader(header)) return 'The archive is damaged: an entry has no header';
    const size = told.size ?? readNumber(header.subarray(124, 136));
    const padded = Math.ceil(size / BLOCK) * BLOCK;
    const kind = String.fromCharCode(header[156] ?? 0);
    if ((kind === GNU_LONG_NAME || kind === PAX) && size <= MAX_EXTENSION) {
      const content = (await source.read(padded)).subarray(0, size);
      told = kind === PAX ? { ...told, ...readPax(content) } : { ...told, name: content };
      continue;
    }
    if (!NO_FILES.includes(kind) && kind !== PAX && kind !== GNU_LONG_NAME) {
      listing.add(told.name ?? nameOf(header), size);
      told = {};
    }
    if ((await source.skip(padded)) < padded) return 'The end of the archive is missing: it is cut off';
  }
}

/** The sum of all bytes of a header, with blanks for the sum itself. Some old programs added signed bytes. */
export function isHeader(header: Buffer): boolean {
  const expected = readNumber(header.subarray(148, 156));
  const sum = (signed: boolean) =>
    header.reduce((all, byte, at) => {
      const value = at >= 148 && at < 156 ? 0x20 : byte;
      return all + (signed && value > 0x7f ? value - 0x100 : value);
    }, 0);
  return sum(false) === expected || sum(true) === expected;
}

/** Octal digits; GNU tar writes large numbers as binary ones, with the first bit set. */
function readNumber(field: Buffer): number {
  const first = field[0] ?? 0;
  if ((first & 0x80) === 0) return Number.parseInt(textOf(field).trim(), 8) || 0;
  return field.subarray(1).reduce((number, byte) => number * 256 + byte, first & 0x7f);
}

function nameOf(header: Buffer): Buffer {
  const name = upToNul(header.subarray(0, 100));
  const prefix =
    header.toString('latin1', 257, 263) === 'ustar\0' ? upToNul(header.subarray(345, 500)) : name;
  return prefix.length > 0 && prefix !== name ? Buffer.concat([prefix, Buffer.from('/'), name]) : name;
}

/** Records such as `30 path=a/long/name\n`, where the number is the length of the record. */
function readPax(content: Buffer): { name?: Uint8Array; size?: number } {
  const found: { name?: Uint8Array; size?: number } = {};
  for (let at = 0; at < content.length; ) {
    const blank = content.indexOf(' ', at);
    const length = Number.parseInt(content.toString('latin1', at, blank), 10);
    const equals = content.indexOf('=', blank);
    if (!(length > 0) || blank < 0 || equals < 0) break;
    const key = content.toString('latin1', blank + 1, equals);
    const value = content.subarray(equals + 1, at + length - 1);
    if (key === 'path') found.name = value;
    if (key === 'size') found.size = Number(value.toString('latin1')) || 0;
    at += length;
  }
  return found;
}

function upToNul(field: Buffer): Buffer {
  const end = field.indexOf(0);
  return end < 0 ? field : field.subarray(0, end);
}

const textOf = (field: Buffer) => upToNul(field).toString('latin1');
