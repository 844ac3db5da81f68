import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { makeCr3, makeRaf, makeTiffRaw, SENSOR } from './camera-raw.js';
import { segment } from './exif.js';
import {
  eicar,
  makeHeic,
  makeHtml,
  makePdf,
  makePngBomb,
  makeSvg,
  makeTruncatedJpeg,
  makeZip,
} from './fixtures.js';

/*
 * Files of many formats, also broken, truncated and lying ones, and what the worker must find of each. Files that sharp
 * cannot write lie in test/fixtures/pictures; they were made from the same picture by heif-enc, cjxl, opj_compress and
 * ImageMagick. To add a file, add a row.
 */

export interface CorpusFile {
  /** Its name as it is uploaded. */
  filename: string;
  /** The type that the client declares; undefined: none. */
  declared?: string;
  make(): Buffer | Promise<Buffer>;
  /** The status in which its processing ends; undefined: completed. */
  status?: 'failed' | 'infected';
  /** The detected type; null: none. */
  type: string | null;
  /** Width and height as the metadata tell them, upright. */
  size?: [width: number, height: number];
  /** It is a document with thumbnails, whose sizes other tests check. */
  drawn?: true;
  /** Width and height of what the thumbnails show; undefined: there are none. */
  shown?: [width: number, height: number];
  /** How much of the picture the thumbnails show; undefined: all. */
  corners?: 'top' | 'none';
  /** `step code` of each warning. */
  warnings?: string[];
}

const SMALL: [number, number] = [96, 64];
const LARGE: [number, number] = [480, 320];

/** Red and green above, blue and yellow below, so that a thumbnail shows which way is up and what is missing. */
export const CORNERS = {
  topLeft: '#d02020',
  topRight: '#20a040',
  bottomLeft: '#2040d0',
  bottomRight: '#e0c020',
};

function draw([width, height]: [number, number]): Sharp {
  const part = (background: string) => ({
    input: { create: { width: width / 2, height: height / 2, channels: 3 as const, background } },
  });
  return sharp({ create: { width, height, channels: 3, background: CORNERS.bottomRight } }).composite([
    { ...part(CORNERS.topLeft), left: 0, top: 0 },
    { ...part(CORNERS.topRight), left: width / 2, top: 0 },
    { ...part(CORNERS.bottomLeft), left: 0, top: height / 2 },
  ]);
}

const drawn = async (size: [number, number]) => sharp(await draw(size).removeAlpha().png().toBuffer());

/** Changes of a picture that an EXIF orientation undoes. sharp mirrors before it rotates. */
const TURNED: Record<number, (picture: Sharp) => Sharp> = {
  1: (picture) => picture,
  2: (picture) => picture.flop(),
  3: (picture) => picture.rotate(180),
  4: (picture) => picture.flip(),
  5: (picture) => picture.rotate(90).flip(),
  6: (picture) => picture.rotate(270),
  7: (picture) => picture.rotate(90).flop(),
  8: (picture) => picture.rotate(90),
};

async function makeTurned(orientation: number, size = LARGE): Promise<Buffer> {
  const turned = TURNED[orientation]?.(await drawn(size)) ?? (await drawn(size));
  return turned.withMetadata({ orientation }).jpeg().toBuffer();
}

/** The same without its EXIF: a preview whose orientation stands elsewhere in the file. */
async function makePreview(orientation: number): Promise<Buffer> {
  const turned = TURNED[orientation]?.(await drawn(LARGE)) ?? (await drawn(LARGE));
  return turned.jpeg().toBuffer();
}

const kept = (name: string) => readFileSync(`test/fixtures/pictures/${name}`);
const part = (bytes: Buffer, share: number) => bytes.subarray(0, Math.floor(bytes.length * share));

/** A JPEG without the segments of one kind. */
function without(jpeg: Buffer, marker: number): Buffer {
  const parts = [jpeg.subarray(0, 2)];
  let at = 2;
  while (jpeg[at + 1] !== 0xda) {
    const end = at + 2 + jpeg.readUInt16BE(at + 2);
    if (jpeg[at + 1] !== marker) parts.push(jpeg.subarray(at, end));
    at = end;
  }
  return Buffer.concat([...parts, jpeg.subarray(at)]);
}

/** A bitmap of 24 bits from the bottom row to the top row. */
async function makeBmp(claimed = LARGE): Promise<Buffer> {
  const pixels = await (await drawn(LARGE)).flip().raw().toBuffer();
  for (let at = 0; at < pixels.length; at += 3) pixels.subarray(at, at + 3).reverse();
  const head = Buffer.alloc(54);
  head.write('BM');
  head.writeUInt32LE(head.length + pixels.length, 2);
  head.writeUInt32LE(head.length, 10);
  head.writeUInt32LE(40, 14);
  head.writeInt32LE(claimed[0], 18);
  head.writeInt32LE(claimed[1], 22);
  head.writeUInt16LE(1, 26);
  head.writeUInt16LE(24, 28);
  return Buffer.concat([head, pixels]);
}

/** 81 megapixels of black in 4 MB: each row of each colour is a few runs of 128 zeros. */
function makePsdBomb(): Buffer {
  const side = 9000;
  const rows = 3 * side;
  const head = Buffer.alloc(26 + 3 * 4 + 2);
  head.write('8BPS');
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(3, 12);
  head.writeUInt32BE(side, 14);
  head.writeUInt32BE(side, 18);
  head.writeUInt16BE(8, 22);
  head.writeUInt16BE(3, 24);
  head.writeUInt16BE(1, head.length - 2);
  const row = Buffer.alloc(Math.ceil(side / 128) * 2);
  for (let at = 0; at < row.length; at += 2) row[at] = 129;
  // The last run is shorter.
  row[row.length - 2] = 257 - (side % 128);
  const length = Buffer.alloc(2);
  length.writeUInt16BE(row.length);
  return Buffer.concat([head, Buffer.alloc(rows * 2, length), Buffer.alloc(rows * row.length, row)]);
}

/** Two frames of one size. */
async function makeAnimation(): Promise<Sharp> {
  const frame = await (await drawn(LARGE)).png().toBuffer();
  return sharp([frame, frame], { join: { animated: true } });
}

/** Noise does not compress, so that half of the file is half of the picture. */
const noise = () => sharp(randomBytes(480 * 320 * 3), { raw: { width: 480, height: 320, channels: 3 } });

const JPEGS: CorpusFile[] = [
  ...[1, 2, 3, 4, 5, 6, 7, 8].map((orientation) => ({
    filename: `orientation-${orientation}.jpg`,
    declared: 'image/jpeg',
    make: () => makeTurned(orientation),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  })),
  {
    filename: 'cmyk.jpg',
    make: async () => (await drawn(LARGE)).toColourspace('cmyk').jpeg().toBuffer(),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'progressive.jpeg',
    make: async () => (await drawn(LARGE)).jpeg({ progressive: true }).toBuffer(),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'grey.jpg',
    make: async () => (await drawn(LARGE)).grayscale().jpeg().toBuffer(),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
    corners: 'none',
  },
  {
    filename: 'Фото 📷 ñandú 写真.jpg',
    make: () => makeTurned(1),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  { filename: 'no-extension', make: () => makeTurned(1), type: 'image/jpeg', size: LARGE, shown: LARGE },
  {
    filename: 'says-it-is-a.png',
    declared: 'image/png',
    make: () => makeTurned(1),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
    warnings: ['sniff type_mismatch', 'sniff extension_mismatch'],
  },
  {
    filename: 'says-it-is-a-document.pdf',
    declared: 'application/pdf',
    make: () => makeTurned(1),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
    warnings: ['sniff type_mismatch', 'sniff extension_mismatch'],
  },
  {
    filename: 'half.jpg',
    make: makeTruncatedJpeg,
    type: 'image/jpeg',
    size: [800, 600],
    shown: [800, 600],
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'no-end-marker.jpg',
    make: async () => (await makeTurned(1)).subarray(0, -2),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'no-huffman-tables.jpg',
    // The decoder takes the tables that ITU-T T.81 gives as examples.
    make: async () => without(await (await drawn(LARGE)).jpeg({ optimiseCoding: false }).toBuffer(), 0xc4),
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'no-quantisation-tables.jpg',
    make: async () => without(await makeTurned(1), 0xdb),
    type: 'image/jpeg',
    size: LARGE,
    warnings: ['thumbnails unreadable'],
  },
  {
    filename: 'header-only.jpg',
    make: async () => (await makeTurned(6)).subarray(0, 60),
    type: 'image/jpeg',
    warnings: ['metadata unreadable', 'thumbnails unreadable'],
  },
  {
    filename: 'only-its-preview-is-left.jpg',
    make: async () => {
      const preview = await (await drawn(SMALL)).jpeg().toBuffer();
      const jpeg = await makeTurned(1);
      return Buffer.concat([jpeg.subarray(0, 2), segment(0xe2, preview), jpeg.subarray(2, 40)]);
    },
    type: 'image/jpeg',
    shown: SMALL,
    warnings: ['metadata unreadable', 'thumbnails damaged'],
  },
  {
    filename: 'noise-between-segments.jpg',
    make: async () => {
      const jpeg = await makePreview(1);
      const frame = jpeg.indexOf(Buffer.from([0xff, 0xc0]));
      return Buffer.concat([jpeg.subarray(0, frame), Buffer.alloc(20, 0x33), jpeg.subarray(frame)]);
    },
    type: 'image/jpeg',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: '108-megapixels.jpg',
    make: () => gunzipSync(readFileSync('test/fixtures/cases/phone-108-megapixels.jpg.gz')),
    type: 'image/jpeg',
    size: [12_000, 9000],
    shown: [1200, 900],
    corners: 'none',
  },
];

const OTHERS_OF_LIBVIPS: CorpusFile[] = [
  {
    filename: '16-bit.png',
    make: async () => (await drawn(LARGE)).toColourspace('rgb16').png().toBuffer(),
    type: 'image/png',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'palette-with-transparency.png',
    make: async () => (await drawn(LARGE)).ensureAlpha(0.9).png({ palette: true }).toBuffer(),
    type: 'image/png',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'half.png',
    make: async () => part(await noise().png().toBuffer(), 0.5),
    type: 'image/png',
    size: LARGE,
    shown: LARGE,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'half-interlaced.png',
    make: async () => part(await noise().png({ progressive: true }).toBuffer(), 0.5),
    type: 'image/png',
    size: LARGE,
    warnings: ['thumbnails unreadable'],
  },
  {
    filename: 'bomb.png',
    make: makePngBomb,
    type: 'image/png',
    size: [50_000, 50_000],
    warnings: ['thumbnails too_many_pixels'],
  },
  {
    filename: 'animated.gif',
    make: async () => (await makeAnimation()).gif().toBuffer(),
    type: 'image/gif',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'half.gif',
    make: async () => part(await noise().gif().toBuffer(), 0.5),
    type: 'image/gif',
    size: LARGE,
    shown: LARGE,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'lossless.webp',
    make: async () => (await drawn(LARGE)).webp({ lossless: true }).toBuffer(),
    type: 'image/webp',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'animated.webp',
    make: async () => (await makeAnimation()).webp().toBuffer(),
    type: 'image/webp',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'half.webp',
    make: async () => part(await noise().webp().toBuffer(), 0.5),
    type: 'image/webp',
    size: LARGE,
    shown: LARGE,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'cmyk.tiff',
    make: async () => (await drawn(LARGE)).toColourspace('cmyk').tiff({ compression: 'lzw' }).toBuffer(),
    type: 'image/tiff',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: '16-bit.tif',
    make: async () => (await drawn(LARGE)).toColourspace('rgb16').tiff().toBuffer(),
    type: 'image/tiff',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'without-its-directory.tif',
    make: async () => part(await noise().tiff({ compression: 'none' }).toBuffer(), 0.5),
    type: 'image/tiff',
    warnings: ['metadata unreadable', 'thumbnails unreadable'],
  },
  {
    filename: 'picture.avif',
    make: async () => (await drawn(LARGE)).avif({ effort: 0 }).toBuffer(),
    type: 'image/avif',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'half.avif',
    make: async () => part(await noise().avif({ effort: 0 }).toBuffer(), 0.5),
    type: 'image/avif',
    size: LARGE,
    warnings: ['thumbnails unreadable'],
  },
];

const OTHER_PICTURES: CorpusFile[] = [
  {
    filename: 'picture.heic',
    declared: 'image/heic',
    make: () => kept('picture.heic'),
    type: 'image/heic',
    size: SMALL,
    shown: SMALL,
  },
  // Its `irot` property and its EXIF orientation both say how to turn it; a decoder must obey the first one only.
  {
    filename: 'turned-twice.heic',
    make: () => kept('turned.heic'),
    type: 'image/heic',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'cut.heic',
    make: () => part(kept('picture.heic'), 0.9),
    type: 'image/heic',
    size: SMALL,
    shown: SMALL,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'without-pixels.heic',
    make: makeHeic,
    type: 'image/heic',
    size: [4032, 3024],
    warnings: ['thumbnails unreadable'],
  },
  {
    filename: 'codestream.jxl',
    declared: 'image/jxl',
    make: () => kept('codestream.jxl'),
    type: 'image/jxl',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'orientation-6.jxl',
    make: () => kept('on-its-side.jxl'),
    type: 'image/jxl',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'from-jpeg.jxl',
    make: () => kept('from-jpeg.jxl'),
    type: 'image/jxl',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'half.jxl',
    make: () => part(kept('codestream.jxl'), 0.5),
    type: 'image/jxl',
    size: SMALL,
    warnings: ['thumbnails unreadable'],
  },
  {
    filename: 'picture.jp2',
    declared: 'image/jp2',
    make: () => kept('picture.jp2'),
    type: 'image/jp2',
    size: SMALL,
    shown: SMALL,
  },
  { filename: '16-bit.jp2', make: () => kept('16-bit.jp2'), type: 'image/jp2', size: SMALL, shown: SMALL },
  {
    filename: 'codestream.j2c',
    make: () => kept('picture.j2k'),
    type: 'image/j2c',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'cut.jp2',
    make: () => part(kept('picture.jp2'), 0.8),
    type: 'image/jp2',
    size: SMALL,
    shown: SMALL,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'rgb.psd',
    declared: 'image/vnd.adobe.photoshop',
    make: () => kept('rgb.psd'),
    type: 'image/vnd.adobe.photoshop',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: '16-bit.psd',
    make: () => kept('16-bit.psd'),
    type: 'image/vnd.adobe.photoshop',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'cmyk.psd',
    make: () => kept('cmyk.psd'),
    type: 'image/vnd.adobe.photoshop',
    size: SMALL,
    shown: SMALL,
  },
  {
    filename: 'grey.psd',
    make: () => kept('grey.psd'),
    type: 'image/vnd.adobe.photoshop',
    size: SMALL,
    shown: SMALL,
    corners: 'none',
  },
  {
    filename: 'cut.psd',
    make: () => part(kept('rgb.psd'), 0.95),
    type: 'image/vnd.adobe.photoshop',
    size: SMALL,
    shown: SMALL,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'bitmaps.ico',
    declared: 'image/vnd.microsoft.icon',
    make: () => kept('bitmaps.ico'),
    type: 'image/x-icon',
    size: [48, 48],
    shown: [48, 48],
  },
  {
    filename: 'png.ico',
    make: () => kept('png.ico'),
    type: 'image/x-icon',
    size: [256, 256],
    shown: [256, 256],
    corners: 'none',
  },
  {
    filename: 'empty.ico',
    make: () => Buffer.from('0000010001002020000001002000a810000016000000', 'hex'),
    type: 'image/x-icon',
    warnings: ['metadata unreadable', 'thumbnails unreadable'],
  },
  {
    filename: 'picture.bmp',
    declared: 'image/bmp',
    make: () => makeBmp(),
    type: 'image/bmp',
    size: LARGE,
    shown: LARGE,
  },
  { filename: 'run-lengths.bmp', make: () => kept('rle.bmp'), type: 'image/bmp', size: SMALL, shown: SMALL },
  {
    // Its last row is the top row.
    filename: 'half.bmp',
    make: async () => part(await makeBmp(), 0.5),
    type: 'image/bmp',
    size: LARGE,
    shown: LARGE,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
  {
    filename: 'bomb.psd',
    make: makePsdBomb,
    type: 'image/vnd.adobe.photoshop',
    size: [9000, 9000],
    warnings: ['thumbnails unreadable'],
  },
  {
    // 24 megapixels of one colour in 600 bytes.
    filename: 'hungry.jp2',
    make: () => kept('large.jp2'),
    type: 'image/jp2',
    size: [6000, 4000],
    warnings: ['thumbnails too_much_memory'],
  },
  {
    filename: 'huge.bmp',
    make: () => makeBmp([40_000, 40_000]),
    type: 'image/bmp',
    size: [40_000, 40_000],
    warnings: ['thumbnails too_many_pixels'],
  },
];

const shownRaw = { size: [SENSOR.width, SENSOR.height] as [number, number], shown: LARGE };

/** The first directory of these says that the picture lies on its side. */
const onItsSide = { size: [SENSOR.height, SENSOR.width] as [number, number], shown: LARGE };

const RAWS: CorpusFile[] = [
  {
    filename: 'canon.cr2',
    make: async () =>
      makeTiffRaw(await makePreview(1), {
        mark: 'II*\0',
        make: 'Canon',
        orientation: 1,
        sign: 'CR\x02\0\0\0\0\0',
      }),
    type: 'image/x-canon-cr2',
    ...shownRaw,
  },
  {
    filename: 'canon.cr3',
    make: async () => makeCr3(await makePreview(8), 8),
    type: 'image/x-canon-cr3',
    ...onItsSide,
  },
  {
    filename: 'nikon.nef',
    make: async () =>
      makeTiffRaw(await makePreview(6), { mark: 'MM\0*', make: 'NIKON CORPORATION', orientation: 6 }),
    type: 'image/x-nikon-nef',
    ...onItsSide,
  },
  {
    filename: 'sony.arw',
    make: async () => makeTiffRaw(await makePreview(3), { mark: 'II*\0', make: 'SONY', orientation: 3 }),
    type: 'image/x-sony-arw',
    ...shownRaw,
  },
  {
    filename: 'adobe.dng',
    make: async () =>
      makeTiffRaw(await makeTurned(6), {
        mark: 'II*\0',
        make: 'Leica',
        orientation: 6,
        more: { 50706: Buffer.from([1, 4, 0, 0]) },
      }),
    type: 'image/x-adobe-dng',
    ...onItsSide,
  },
  {
    filename: 'olympus.orf',
    make: async () => makeTiffRaw(await makePreview(1), { mark: 'IIRO', make: 'OLYMPUS', orientation: 1 }),
    type: 'image/x-olympus-orf',
    ...shownRaw,
  },
  {
    filename: 'panasonic.rw2',
    make: async () => makeTiffRaw(await makeTurned(8), { mark: 'IIU\0', make: 'Panasonic', orientation: 8 }),
    type: 'image/x-panasonic-rw2',
    ...onItsSide,
  },
  {
    filename: 'pentax.pef',
    make: async () => makeTiffRaw(await makePreview(1), { mark: 'MM\0*', make: 'PENTAX', orientation: 1 }),
    type: 'image/x-pentax-pef',
    ...shownRaw,
  },
  {
    filename: 'fujifilm.raf',
    make: async () => makeRaf(await makeTurned(6)),
    type: 'image/x-fujifilm-raf',
    size: LARGE,
    shown: LARGE,
  },
  {
    filename: 'cut.nef',
    make: async () => {
      const raw = await makeTiffRaw(await noise().jpeg().toBuffer(), {
        mark: 'MM\0*',
        make: 'NIKON',
        orientation: 1,
      });
      return part(raw, 0.6);
    },
    type: 'image/x-nikon-nef',
    ...shownRaw,
    corners: 'none',
    warnings: ['thumbnails damaged'],
  },
];

const NO_PICTURES: CorpusFile[] = [
  { filename: 'empty.jpg', make: () => Buffer.alloc(0), type: null },
  { filename: 'random.bin', make: () => randomBytes(5000).fill(0, 0, 8), type: null },
  { filename: 'text.txt', make: () => Buffer.from('Hello, naïve 世界\n'), type: 'text/plain' },
  {
    filename: 'words-that-begin-like-a.bmp',
    make: () => Buffer.from('BM is the beginning of this sentence.\n'),
    type: 'text/plain',
  },
  { filename: 'page.html', make: makeHtml, type: 'text/plain' },
  { filename: 'drawing.svg', make: makeSvg, type: 'text/plain', drawn: true },
  { filename: 'page.pdf', make: makePdf, type: 'application/pdf', drawn: true },
  { filename: 'archive.zip', make: makeZip, type: 'application/zip' },
  { filename: 'infected.com', make: eicar, type: 'text/plain', status: 'infected' },
  {
    filename: 'infected.jpg',
    make: async () => Buffer.concat([await makeTurned(1), eicar()]),
    type: 'image/jpeg',
    status: 'infected',
  },
];

export const CORPUS: CorpusFile[] = [
  ...JPEGS,
  ...OTHERS_OF_LIBVIPS,
  ...OTHER_PICTURES,
  ...RAWS,
  ...NO_PICTURES,
];
