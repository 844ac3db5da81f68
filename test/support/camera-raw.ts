import sharp from 'sharp';

/*
 * Raw files of cameras, as far as a reader of previews sees them: a small and a large JPEG, the head of a lossless JPEG as
 * sensors' data, and the directories and boxes of each maker. There is not one pixel of a sensor in them.
 */

/** The sensor's size in pixels, larger than the preview. */
export const SENSOR = { width: 6000, height: 4000 };

const u16be = (value: number) => Buffer.from([value >>> 8, value & 0xff]);
const u32be = (value: number) => Buffer.concat([u16be(value >>> 16), u16be(value & 0xffff)]);

type Value = number | string | Buffer;

/** A directory of TIFF at `at`, in either byte order; a number is a LONG. */
function directory(tags: Record<number, Value>, at: number, little: boolean): Buffer {
  const u16 = (value: number) => (little ? u16be(value).reverse() : u16be(value));
  const u32 = (value: number) => (little ? u32be(value).reverse() : u32be(value));
  const fields = Object.entries(tags).map(([tag, value]) => {
    const data = typeof value === 'number' ? u32(value) : Buffer.from(value);
    const [type, count] =
      typeof value === 'number' ? [4, 1] : [typeof value === 'string' ? 2 : 7, data.length];
    return { head: Buffer.concat([u16(Number(tag)), u16(type), u32(count)]), data };
  });
  let end = at + 2 + fields.length * 12 + 4;
  const places = fields.map(({ data }) => {
    if (data.length <= 4) return Buffer.concat([data, Buffer.alloc(4 - data.length)]);
    const place = u32(end);
    end += data.length;
    return place;
  });
  const entries = fields.map(({ head }, index) => Buffer.concat([head, places[index] ?? u32(0)]));
  const apart = fields.filter(({ data }) => data.length > 4).map(({ data }) => data);
  return Buffer.concat([u16(fields.length), ...entries, u32(0), ...apart]);
}

interface TiffRaw {
  /** The first four bytes. */
  mark: string;
  make: string;
  orientation: number;
  /** Tags of the first directory besides those that all have. */
  more?: Record<number, Value>;
  /** What Canon writes between the header and the first directory. */
  sign?: string;
}

/** The first half of a lossless JPEG's head: a Huffman table, and a frame header that says how large the sensor is. */
const LOSSLESS = Buffer.concat([
  Buffer.from('ffd8ffc40016000001050101010101000000000000000000010203', 'hex'),
  Buffer.from('ffc3000e0e', 'hex'),
  u16be(SENSOR.height),
  u16be(SENSOR.width),
  Buffer.from('02011100021100', 'hex'),
]);

/** A raw file with the structure of TIFF: Canon's CR2, Nikon's NEF, Sony's ARW, Adobe's DNG, Olympus' ORF, Panasonic's RW2. */
export async function makeTiffRaw(preview: Buffer, options: TiffRaw): Promise<Buffer> {
  const { mark, make, orientation, more = {}, sign = '' } = options;
  const little = mark.startsWith('II');
  const small = await sharp(preview).resize(24, 16, { fit: 'fill' }).jpeg().toBuffer();
  const start = 8 + sign.length;
  const main = (below: number, thumbnail: number) =>
    directory(
      {
        271: `${make}\0`,
        274: orientation,
        330: below,
        513: thumbnail,
        514: small.length,
        ...more,
      },
      start,
      little,
    );
  const below = start + main(0, 0).length;
  const sensor = directory({ 256: SENSOR.width, 257: SENSOR.height, 262: 32_803 }, below, little);
  const thumbnail = below + sensor.length;
  const at = little ? u32be(start).reverse() : u32be(start);
  return Buffer.concat([
    Buffer.from(mark + at.toString('latin1') + sign, 'latin1'),
    main(below, thumbnail),
    sensor,
    small,
    LOSSLESS,
    Buffer.alloc(1000, 7),
    preview,
    Buffer.alloc(1000, 7),
  ]);
}

/** Fujifilm's RAF: a header with the place of a JPEG that has the camera's EXIF. */
export function makeRaf(preview: Buffer): Buffer {
  const head = Buffer.alloc(160);
  head.write('FUJIFILMCCD-RAW 0201FF389501FinePix X100');
  head.writeUInt32BE(head.length, 84);
  head.writeUInt32BE(preview.length, 88);
  return Buffer.concat([head, preview, Buffer.alloc(1000, 7)]);
}

/** Canon's CR3: boxes, with the EXIF directories in blocks of their own. */
export function makeCr3(preview: Buffer, orientation: number): Buffer {
  const box = (type: string, ...parts: Buffer[]) => {
    const body = Buffer.concat(parts);
    return Buffer.concat([u32be(body.length + 8), Buffer.from(type), body]);
  };
  const block = (tags: Record<number, Value>) =>
    Buffer.concat([Buffer.from('II*\0\x08\0\0\0', 'latin1'), directory(tags, 8, true)]);
  const main = block({ 256: SENSOR.width, 257: SENSOR.height, 271: 'Canon\0', 274: orientation });
  const camera = block({ 36867: '2024:05:06 07:08:09\0' });
  return Buffer.concat([
    box('ftyp', Buffer.from('crx \0\0\0\x01crx isom', 'latin1')),
    box(
      'moov',
      box(
        'uuid',
        Buffer.from('85c0b687820f11e08111f4ce462b6a48', 'hex'),
        box('CMT1', main),
        box('CMT2', camera),
      ),
    ),
    box(
      'uuid',
      Buffer.from('eaf42b5e1c984b88b9fbb7dc406e4d16', 'hex'),
      u32be(0),
      u32be(1),
      box('PRVW', Buffer.alloc(16), preview),
    ),
    box('mdat', Buffer.alloc(1000, 7)),
  ]);
}
