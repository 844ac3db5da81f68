import sharp from 'sharp';

/* Writes EXIF blocks tag by tag, also wrong ones that no library would write. */

/** A text is written as it is, with no NUL added; `bytes` as UNDEFINED; numbers as the named type. */
type Value =
  | string
  | Buffer
  | { short: number[] }
  | { byte: number[] }
  /** Numerators and denominators. */
  | { rational: [number, number][] };

type Tags = Record<number, Value>;

export interface Directories {
  ifd0?: Tags;
  exif?: Tags;
  gps?: Tags;
}

interface Field {
  tag: number;
  type: number;
  count: number;
  data: Buffer;
}

export const TAG = {
  make: 0x010f,
  modifyDate: 0x0132,
  copyright: 0x8298,
  exposureTime: 0x829a,
  iso: 0x8827,
  version: 0x9000,
  dateTimeOriginal: 0x9003,
  createDate: 0x9004,
  offsetTime: 0x9010,
  offsetTimeOriginal: 0x9011,
  subSecTimeOriginal: 0x9291,
  lensInfo: 0xa432,
  title: 0x9c9b,
  latitudeRef: 1,
  latitude: 2,
  longitudeRef: 3,
  longitude: 4,
  altitudeRef: 5,
  altitude: 6,
  gpsTime: 7,
  gpsDate: 29,
};

/** A TIFF structure in the byte order of Intel or of Motorola, with EXIF and GPS directories below the first one. */
export function makeExif({ ifd0 = {}, exif, gps }: Directories, order: 'II' | 'MM' = 'II'): Buffer {
  const u16 = (value: number) => number(2, value);
  const u32 = (value: number) => number(4, value);

  function number(size: 1 | 2 | 4, value: number): Buffer {
    const buffer = Buffer.alloc(size);
    if (order === 'II') buffer.writeUIntLE(value, 0, size);
    else buffer.writeUIntBE(value, 0, size);
    return buffer;
  }

  function encode(tag: number, value: Value): Field {
    if (typeof value === 'string') {
      const data = Buffer.from(value, 'latin1');
      return { tag, type: 2, count: data.length, data };
    }
    if (Buffer.isBuffer(value)) return { tag, type: 7, count: value.length, data: value };
    if ('byte' in value) return { tag, type: 1, count: value.byte.length, data: Buffer.from(value.byte) };
    if ('short' in value) {
      return { tag, type: 3, count: value.short.length, data: Buffer.concat(value.short.map(u16)) };
    }
    return {
      tag,
      type: 5,
      count: value.rational.length,
      data: Buffer.concat(value.rational.flat().map(u32)),
    };
  }

  /** A directory that stands at `offset`, followed by the values that do not fit into its entries. */
  function directory(tags: Tags, offset: number, pointers: Record<number, number>): Buffer {
    const fields = [
      ...Object.entries(tags).map(([tag, value]) => encode(Number(tag), value)),
      ...Object.entries(pointers).map(([tag, to]) => ({
        tag: Number(tag),
        type: 4,
        count: 1,
        data: u32(to),
      })),
    ];
    let end = offset + 2 + fields.length * 12 + 4;
    const entries: Buffer[] = [];
    const values: Buffer[] = [];
    for (const { tag, type, count, data } of fields) {
      const fits = data.length <= 4;
      const place = fits ? Buffer.concat([data, Buffer.alloc(4 - data.length)]) : u32(end);
      entries.push(Buffer.concat([u16(tag), u16(type), u32(count), place]));
      if (fits) continue;
      values.push(data, Buffer.alloc(data.length % 2));
      end += data.length + (data.length % 2);
    }
    return Buffer.concat([u16(fields.length), ...entries, u32(0), ...values]);
  }

  // The first directory has the same size wherever the others are.
  const pointers = (exifAt: number, gpsAt: number) => ({
    ...(exif ? { 34665: exifAt } : {}),
    ...(gps ? { 34853: gpsAt } : {}),
  });
  const exifAt = 8 + directory(ifd0, 8, pointers(0, 0)).length;
  const below = exif ? directory(exif, exifAt, {}) : Buffer.alloc(0);
  const gpsAt = exifAt + below.length;
  return Buffer.concat([
    Buffer.from(order),
    u16(42),
    u32(8),
    directory(ifd0, 8, pointers(exifAt, gpsAt)),
    below,
    ...(gps ? [directory(gps, gpsAt, {})] : []),
  ]);
}

/** A small JPEG with these segments behind its start. */
export async function makeJpegWith(...segments: Buffer[]): Promise<Buffer> {
  const plain = { create: { width: 8, height: 8, channels: 3, background: '#808080' } } as const;
  const jpeg = await sharp(plain).jpeg().toBuffer();
  return Buffer.concat([jpeg.subarray(0, 2), ...segments, jpeg.subarray(2)]);
}

/** A segment of a JPEG, by the second byte of its marker. */
export function segment(marker: number, content: Buffer): Buffer {
  const head = Buffer.from([0xff, marker, 0, 0]);
  head.writeUInt16BE(content.length + 2, 2);
  return Buffer.concat([head, content]);
}

/** APP1. */
export const exifSegment = (exif: Buffer): Buffer =>
  segment(0xe1, Buffer.concat([Buffer.from('Exif\0\0'), exif]));
