import { crc32 } from 'node:zlib';
import { readExif } from './exif.js';
import { readHeader } from './image.js';

/*
 * Removes the place where a photograph was taken from the bytes of an image that sharp has written, and leaves its other tags.
 *
 * sharp can keep or replace EXIF, but cannot remove single tags. It writes the block in one piece, so the directory of the
 * position is erased there; no offset changes. Notes of camera makers go too: only the makers know their form, and some hold
 * a position.
 */

const IFD = { exif: 0x8769, gps: 0x8825 };
const MAKER_NOTE = 0x927c;

/** Directories that follow one another: the image, its thumbnail, and some more in wrong files. */
const MAX_DIRECTORIES = 8;

/** Bytes of one value by type number (TIFF 6.0, section 2). */
const SIZES: Record<number, number> = { 3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4 };

/**
 * Erases the place in the EXIF of an image.
 * @param image JPEG, PNG, WebP or AVIF as sharp has written it; it is changed
 * @throws {Error} when the place cannot be erased
 */
export async function erasePlace(image: Buffer): Promise<void> {
  const { exif, format } = await readHeader(image);
  if (!exif) return;
  const tiff = exif.subarray(exif.toString('latin1', 0, 4) === 'Exif' ? 6 : 0);
  const at = image.indexOf(tiff);
  if (at < 0) throw new Error('the EXIF of the result was not found');
  const block = image.subarray(at, at + tiff.length);
  eraseFrom(block);
  if (format === 'png') {
    const chunk = image.subarray(at - 4, at + tiff.length);
    image.writeUInt32BE(crc32(chunk), at + tiff.length);
  }
  const left = Object.values(readExif(block).gps ?? {}).filter((value) => value !== undefined);
  if (left.length > 0) throw new Error('a place is left in the result');
}

/** @param tiff a TIFF structure, which is changed */
function eraseFrom(tiff: Buffer): void {
  const little = tiff.toString('latin1', 0, 2) === 'II';
  const u16 = (at: number) => (little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const u32 = (at: number) => (little ? tiff.readUInt32LE(at) : tiff.readUInt32BE(at));
  const setCount = (at: number, count: number) =>
    little ? tiff.writeUInt16LE(count, at) : tiff.writeUInt16BE(count, at);

  /** Erases the value of an entry that does not fit into the entry itself. */
  function eraseValue(at: number): void {
    const length = (SIZES[u16(at + 2)] ?? 1) * u32(at + 4);
    if (length > 4) tiff.fill(0, u32(at + 8), u32(at + 8) + length);
  }

  function entriesOf(directory: number): number[] {
    const count = u16(directory);
    return Array.from({ length: count }, (_, index) => directory + 2 + 12 * index);
  }

  function eraseDirectory(directory: number): void {
    const entries = entriesOf(directory);
    for (const at of entries) eraseValue(at);
    tiff.fill(0, directory, directory + 2 + 12 * entries.length + 4);
  }

  /** Takes an entry out. The later entries, and the offset of the next directory behind them, move up. */
  function removeEntry(directory: number, at: number): void {
    const count = u16(directory);
    const end = directory + 2 + 12 * count + 4;
    tiff.copyWithin(at, at + 12, end);
    tiff.fill(0, end - 12, end);
    setCount(directory, count - 1);
  }

  function clean(directory: number): void {
    // From the last one on, because removals move those behind.
    for (const at of entriesOf(directory).reverse()) {
      const tag = u16(at);
      if (tag === IFD.exif) clean(u32(at + 8));
      if (tag === IFD.gps) eraseDirectory(u32(at + 8));
      if (tag === MAKER_NOTE) eraseValue(at);
      if (tag === IFD.gps || tag === MAKER_NOTE) removeEntry(directory, at);
    }
  }

  let directory = u32(4);
  for (let n = 0; directory !== 0 && n < MAX_DIRECTORIES; n++) {
    clean(directory);
    directory = u32(directory + 2 + 12 * u16(directory));
  }
}

const NAME = '[\\w.-]+:(?:gps|[\\w.-]*(?:latitude|longitude|altitude))[\\w.-]*';
const ATTRIBUTE = new RegExp(`\\s${NAME}\\s*=\\s*(?:"[^"]*"|'[^']*')`, 'gi');
const EMPTY_ELEMENT = new RegExp(`<${NAME}(?:\\s[^<>]*)?/>`, 'gi');
const ELEMENT = new RegExp(`<(${NAME})(?:\\s[^<>]*)?>[^]*?</\\1\\s*>`, 'gi');

/** Names of a place, whatever they belong to, and means of XML to hide one. */
const REST = /gps|latitude|longitude|altitude|<!DOCTYPE|<!\[CDATA\[/i;

/**
 * Removes positions from an XMP packet.
 * @returns undefined if they cannot be told apart from the rest: then the whole packet must go
 */
export function withoutPlace(packet: Buffer): string | undefined {
  const text = new TextDecoder().decode(packet);
  const left = text.replaceAll(ATTRIBUTE, '').replaceAll(EMPTY_ELEMENT, '').replaceAll(ELEMENT, '');
  return REST.test(left.replaceAll(/xmlns:[\w.-]+\s*=\s*(?:"[^"]*"|'[^']*')/g, '')) || left.includes('\0')
    ? undefined
    : left;
}
