import { exifOf, findLargestJpeg } from './embedded-jpeg.js';
import type { Format } from './format.js';
import { latin1 } from './plain-text.js';
import { openTiff, type Tiff } from './tiff.js';

/*
 * Raw files of cameras. Nearly all have the structure of TIFF; Canon's CR3 is made of boxes, Fujifilm's RAF has a header of
 * its own. The sensor's data would have to be developed, but every camera also stores its own development as JPEG, often
 * several of different sizes, each maker at another place. The largest one is the preview.
 */

/** Types by which file-type and rawTypeOf() name raw files. */
const RAW =
  /^image\/x-(canon-cr[23]|nikon-nef|sony-arw|adobe-dng|fujifilm-raf|olympus-orf|panasonic-rw2|pentax-pef|samsung-srw)$/;

export const isRawType = (mime: string): boolean => RAW.test(mime);

const TAG = {
  width: 0x100,
  height: 0x101,
  photometric: 0x106,
  make: 0x10f,
  orientation: 0x112,
  subDirectories: 0x14a,
  xmp: 0x2bc,
  exifDirectory: 0x8769,
  pixelWidth: 0xa002,
  pixelHeight: 0xa003,
};

/** PhotometricInterpretation of data as a sensor gives them: colour filter array, linear raw (DNG 1.7, 6). */
const SENSOR = [32_803, 34_892];

const MAKERS: [RegExp, Format][] = [
  [/^nikon/i, { mime: 'image/x-nikon-nef', ext: 'nef' }],
  [/^sony/i, { mime: 'image/x-sony-arw', ext: 'arw' }],
  [/^(pentax|ricoh)/i, { mime: 'image/x-pentax-pef', ext: 'pef' }],
  [/^samsung/i, { mime: 'image/x-samsung-srw', ext: 'srw' }],
];

/** The raw format of a TIFF whose directories hold a sensor's data, by the maker of the camera. */
export function rawTypeOf(head: Uint8Array): Format | undefined {
  const tiff = openTiff(Buffer.from(head.buffer, head.byteOffset, head.length));
  if (!tiff) return undefined;
  const make = latin1(tiff.readDirectory(tiff.first).get(TAG.make)?.text ?? new Uint8Array());
  const isSensor = directoriesOf(tiff).some((directory) =>
    SENSOR.includes(directory.get(TAG.photometric)?.numbers?.[0] ?? 0),
  );
  return isSensor ? MAKERS.find(([maker]) => maker.test(make))?.[1] : undefined;
}

/** The first directory and those below it. */
function directoriesOf(tiff: Tiff) {
  const main = tiff.readDirectory(tiff.first);
  const below = main.get(TAG.subDirectories)?.numbers ?? [];
  return [main, ...below.map((offset) => tiff.readDirectory(offset))];
}

/** A raw file without the sensor's data. */
export interface CameraRaw {
  /** The largest JPEG, to the end of the file; undefined: there is none. */
  preview?: Buffer;
  /** Its first block of EXIF, and for CR3 those of the camera and of the place. */
  blocks: { main?: Buffer; exif?: Buffer; gps?: Buffer };
  /** The XMP packet. */
  xmp?: Buffer;
  /** Pixels, before `orientation` is applied: of the sensor's data or, if the file does not tell, of the preview. */
  width: number;
  height: number;
  /** As in EXIF: 1 to 8. */
  orientation: number;
}

/** Finds the preview and the facts in a raw file. */
export function readCameraRaw(bytes: Buffer): CameraRaw {
  const jpeg = findLargestJpeg(bytes);
  const exifOfJpeg = jpeg && exifOf(jpeg.bytes);
  const blocks = findBlocks(bytes, exifOfJpeg);
  const tiff = blocks.main && openTiff(blocks.main);
  const sizes = tiff ? sizesOf(tiff) : [];
  if (jpeg) sizes.push(jpeg);
  const { width, height } = sizes.reduce((a, b) => (b.width * b.height > a.width * a.height ? b : a), {
    width: 0,
    height: 0,
  });
  const orientation = orientationOf(exifOfJpeg) ?? orientationOf(blocks.main) ?? 1;
  const xmp = tiff?.readDirectory(tiff.first).get(TAG.xmp)?.bytes;
  return {
    ...(jpeg ? { preview: upright(jpeg.bytes, exifOfJpeg, orientation) } : {}),
    ...(xmp ? { xmp } : {}),
    blocks,
    width,
    height,
    orientation,
  };
}

/** Canon's CR3 has three blocks, each a TIFF of its own; a TIFF is its own block; Fujifilm's block is in the JPEG. */
function findBlocks(bytes: Buffer, exifOfJpeg: Buffer | undefined): CameraRaw['blocks'] {
  if (openTiff(bytes)) return { main: bytes };
  const box = (name: string) => {
    const at = bytes.indexOf(name, 0, 'latin1');
    return at < 4 ? undefined : bytes.subarray(at + 4, at - 4 + bytes.readUInt32BE(at - 4));
  };
  if (bytes.toString('latin1', 4, 12) !== 'ftypcrx ') return exifOfJpeg ? { main: exifOfJpeg } : {};
  const [main, exif, gps] = ['CMT1', 'CMT2', 'CMT4'].map(box);
  return { ...(main ? { main } : {}), ...(exif ? { exif } : {}), ...(gps ? { gps } : {}) };
}

function sizesOf(tiff: Tiff): { width: number; height: number }[] {
  const directories = directoriesOf(tiff);
  const size = (tags: (typeof directories)[number] | undefined, across: number, down: number) => ({
    width: tags?.get(across)?.numbers?.[0] ?? 0,
    height: tags?.get(down)?.numbers?.[0] ?? 0,
  });
  const [exifAt] = directories[0]?.get(TAG.exifDirectory)?.numbers ?? [];
  const exif = exifAt === undefined ? undefined : tiff.readDirectory(exifAt);
  return [
    ...directories.map((tags) => size(tags, TAG.width, TAG.height)),
    size(exif, TAG.pixelWidth, TAG.pixelHeight),
  ];
}

function orientationOf(block: Buffer | undefined): number | undefined {
  const tiff = block && openTiff(block);
  const [value = 0] = tiff?.readDirectory(tiff.first).get(TAG.orientation)?.numbers ?? [];
  return value >= 1 && value <= 8 ? value : undefined;
}

/** A preview without an orientation gets that of the file, as an EXIF block. */
function upright(jpeg: Buffer, exif: Buffer | undefined, orientation: number): Buffer {
  if (orientation === 1 || orientationOf(exif)) return jpeg;
  // One tag of type SHORT.
  const segment = Buffer.from(
    'ffe1002245786966000049492a0008000000010012010300010000000000000000000000',
    'hex',
  );
  segment.writeUInt8(orientation, segment.length - 8);
  return Buffer.concat([jpeg.subarray(0, 2), segment, jpeg.subarray(2)]);
}
