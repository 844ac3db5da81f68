/* The structure that TIFF files and EXIF blocks share (TIFF 6.0, section 2): directories of tagged values. */

/** The value of a tag. NaN stands for a number that is unknown or invalid. */
export interface Entry {
  /** ASCII, or UTF-8 (EXIF 3.0, 4.6.2). */
  text?: Buffer;
  /** BYTE or UNDEFINED. */
  bytes?: Buffer;
  numbers?: number[];
}

/** The tags of one directory. */
export type Directory = Map<number, Entry>;

export interface Tiff {
  /** The directory at this offset; an empty one where there is none. Entries that cannot be read are left out. */
  readDirectory(offset: number): Directory;
  /** Offset of the first directory. */
  first: number;
}

/** A tag with more values holds positions in the file (strips, tiles), not facts about the image. */
const MAX_VALUES = 256;

/** Numerator of a rational that is unknown or infinite (EXIF 2.31, 4.6.5: SubjectDistance). */
const UNKNOWN = 0xffff_ffff;

/** A TIFF, and the same structure under the marks of Olympus and Panasonic. */
const MARKS = ['II*\0', 'MM\0*', 'IIRO', 'IIRS', 'MMOR', 'IIU\0'];

/** @returns undefined if the bytes are not a TIFF; a BigTIFF, with offsets of 64 bits, is not supported either */
export function openTiff(bytes: Buffer): Tiff | undefined {
  const mark = bytes.toString('latin1', 0, 4);
  if (!MARKS.includes(mark)) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const little = mark.startsWith('I');
  const u16 = (at: number) => view.getUint16(at, little);
  const u32 = (at: number) => view.getUint32(at, little);
  const i32 = (at: number) => view.getInt32(at, little);
  const rational = (numerator: number, denominator: number) =>
    denominator === 0 || numerator === UNKNOWN ? Number.NaN : numerator / denominator;

  /** By type number: bytes of one value, and the function that reads it. */
  const numbers: Record<number, [size: number, read: (at: number) => number]> = {
    3: [2, u16],
    4: [4, u32],
    5: [8, (at) => rational(u32(at), u32(at + 4))],
    6: [1, (at) => view.getInt8(at)],
    8: [2, (at) => view.getInt16(at, little)],
    9: [4, i32],
    10: [8, (at) => rational(i32(at), i32(at + 4))],
    11: [4, (at) => view.getFloat32(at, little)],
    12: [8, (at) => view.getFloat64(at, little)],
    13: [4, u32],
  };
  /** Meaning of the types whose values have one byte. */
  const bytewise: Record<number, 'text' | 'bytes'> = { 1: 'bytes', 2: 'text', 7: 'bytes', 129: 'text' };

  function readEntry(at: number): Entry | undefined {
    const type = u16(at + 2);
    const count = u32(at + 4);
    const [size, readNumber] = numbers[type] ?? [1];
    // Values of four bytes or less stand in the entry itself.
    const start = size * count <= 4 ? at + 8 : u32(at + 8);
    const kind = bytewise[type];
    if (kind && start + count <= bytes.length) return { [kind]: bytes.subarray(start, start + count) };
    if (!readNumber || count > MAX_VALUES) return undefined;
    return { numbers: Array.from({ length: count }, (_, index) => readNumber(start + index * size)) };
  }

  return {
    first: bytes.length < 8 ? 0 : u32(4),
    readDirectory(offset) {
      const directory: Directory = new Map();
      if (offset < 8 || offset + 2 > bytes.length) return directory;
      const count = u16(offset);
      for (let at = offset + 2; at < offset + 2 + count * 12 && at + 12 <= bytes.length; at += 12) {
        const tag = u16(at);
        if (directory.has(tag)) continue;
        const value = attempt(() => readEntry(at));
        if (value) directory.set(tag, value);
      }
      return directory;
    },
  };
}

/** Undefined when an entry points beyond the end of the bytes. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
