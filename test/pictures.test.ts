import { readFileSync } from 'node:fs';
import sharp from 'sharp';
import { isAllowed } from '../core/media/allowed.js';
import { isRawType, rawTypeOf, readCameraRaw } from '../core/media/camera-raw.js';
import { toDecodable } from '../core/media/decodable.js';
import { detectType } from '../core/media/detect.js';
import { findLargestJpeg } from '../core/media/embedded-jpeg.js';
import { readIcon } from '../core/media/icon.js';
import { convertToTiff, readMagickHeader } from '../core/media/imagemagick.js';
import { readMetadata } from '../core/media/metadata.js';
import { fillMissing } from '../core/media/missing-bytes.js';
import { makeThumbnails } from '../core/media/thumbnails.js';
import { makeCr3, makeTiffRaw, SENSOR } from './support/camera-raw.js';
import { makeJpeg, makePng, makeTiff } from './support/fixtures.js';

/* Pictures that libvips does not decode, apart from a server. corpus.test.ts sends all formats through one. */

const LIMITS = { maxImagePixels: 100_000_000, memory: 1024 ** 3 };

const input = (bytes: Buffer, limits = LIMITS) => ({ bytes, size: bytes.length, limits });
const kept = (name: string) => readFileSync(`test/fixtures/pictures/${name}`);

describe('ImageMagick', () => {
  it('reads nothing but the formats that are asked of it', async () => {
    for (const bytes of [await makePng({ width: 9, height: 9 }), kept('picture.jp2')]) {
      await expect(convertToTiff(bytes, 'BMP', LIMITS)).rejects.toThrow(/header/i);
    }
    const scripts = [
      '<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
      'push graphic-context',
    ];
    for (const script of scripts) {
      await expect(convertToTiff(Buffer.from(script), 'PSD', LIMITS)).rejects.toThrow(/header/i);
    }
    // A decoder that the types do not name.
    const png = await makePng({ width: 9, height: 9 });
    await expect(convertToTiff(png, 'PNG' as 'BMP', LIMITS)).rejects.toThrow(/NotAuthorized/);
  });

  it('decodes no picture with more pixels than allowed, and reads its header all the same', async () => {
    const limits = { ...LIMITS, maxImagePixels: 96 * 64 - 1 };
    const jxl = kept('codestream.jxl');
    await expect(convertToTiff(jxl, 'JXL', limits)).rejects.toMatchObject({ code: 'too_many_pixels' });
    expect(await readMagickHeader(jxl, 'JXL', limits)).toMatchObject({
      width: 96,
      height: 64,
      space: 'srgb',
    });
  });

  it('leaves nothing behind: the next picture does not see that one failed', async () => {
    await expect(convertToTiff(Buffer.alloc(100), 'HEIC', LIMITS)).rejects.toThrow();
    const tiff = await convertToTiff(kept('picture.heic'), 'HEIC', LIMITS);
    expect(await sharp(tiff).metadata()).toMatchObject({
      format: 'tiff',
      width: 96,
      height: 64,
      channels: 3,
    });
  });

  it('keeps the colour space of CMYK, and turns grey into RGB', async () => {
    const cmyk = await sharp(await convertToTiff(kept('cmyk.psd'), 'PSD', LIMITS)).metadata();
    expect(cmyk).toMatchObject({ space: 'cmyk', depth: 'uchar' });
    const grey = await sharp(await convertToTiff(kept('grey.psd'), 'PSD', LIMITS)).metadata();
    expect(grey).toMatchObject({ space: 'srgb', depth: 'uchar' });
  });
});

describe('a picture for libvips', () => {
  it('stays as it is when libvips decodes it', async () => {
    const jpeg = await makeJpeg({ width: 9, height: 9 });
    expect((await toDecodable(input(jpeg))).bytes).toBe(jpeg);
  });

  it('keeps the transparency of an icon', async () => {
    const { bytes } = await toDecodable(input(kept('bitmaps.ico')));
    expect(await sharp(bytes).metadata()).toMatchObject({ width: 48, height: 48, hasAlpha: true });
  });
});

describe('a raw file of a camera', () => {
  it('is known by the maker and by the data of a sensor', async () => {
    const preview = await makeJpeg({ width: 90, height: 60 });
    const raw = (make: string) => makeTiffRaw(preview, { mark: 'MM\0*', make, orientation: 1 });
    const mimeOf = async (bytes: Buffer) => (await detectType({ bytes, size: bytes.length }))?.mime;
    expect(await mimeOf(await raw('NIKON CORPORATION'))).toBe('image/x-nikon-nef');
    expect(await mimeOf(await raw('SAMSUNG'))).toBe('image/x-samsung-srw');
    expect(await mimeOf(await raw('Nobody'))).toBe('image/tiff');
    // Nikon's programs write pictures of this camera that are no raw files.
    const edited = await sharp(preview)
      .withExif({ IFD0: { Make: 'NIKON CORPORATION' } })
      .tiff()
      .toBuffer();
    expect(rawTypeOf(edited)).toBeUndefined();
    expect(await mimeOf(edited)).toBe('image/tiff');
  });

  it('gives its largest preview, never the lossless data of the sensor', async () => {
    const raw = await makeTiffRaw(await makeJpeg({ width: 300, height: 200 }), {
      mark: 'II*\0',
      make: 'SONY',
      orientation: 1,
    });
    const { preview = Buffer.alloc(0), ...facts } = readCameraRaw(raw);
    expect(await sharp(preview).metadata()).toMatchObject({ format: 'jpeg', width: 300, height: 200 });
    expect(facts).toMatchObject({ ...SENSOR, orientation: 1 });
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'hands its orientation %i to a preview that has none',
    async (orientation) => {
      const cr3 = makeCr3(await makeJpeg({ width: 300, height: 200 }), orientation);
      const { preview = Buffer.alloc(0) } = readCameraRaw(cr3);
      expect((await sharp(preview).metadata()).orientation ?? 1).toBe(orientation);
    },
  );

  it('has the EXIF of its blocks', async () => {
    const cr3 = makeCr3(await makeJpeg({ width: 300, height: 200 }), 6);
    expect(await readMetadata(input(cr3))).toMatchObject({
      image: { format: 'cr3', width: SENSOR.height, height: SENSOR.width, orientation: 6 },
      ifd0: { Make: 'Canon' },
      exif: { DateTimeOriginal: '2024-05-06T07:08:09' },
    });
  });

  it('without a preview has no thumbnails', async () => {
    const raf = Buffer.from(`FUJIFILMCCD-RAW ${'\0'.repeat(500)}`);
    expect(isRawType((await detectType({ bytes: raf, size: raf.length }))?.mime ?? '')).toBe(true);
    await expect(makeThumbnails(input(raf))).rejects.toMatchObject({ code: 'unreadable' });
  });

  it('is searched in no more than a second when it is made of signatures only', () => {
    const began = performance.now();
    expect(
      findLargestJpeg(Buffer.alloc(30_000_000, Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 4]))),
    ).toBeUndefined();
    expect(performance.now() - began).toBeLessThan(30_000);
  });
});

describe('an icon', () => {
  /** A directory of pictures with these sides; the content of each is its index. */
  function makeIcon(...sides: [side: number, depth: number, length?: number][]): Buffer {
    const head = Buffer.alloc(6 + sides.length * 16);
    head.writeUInt16LE(1, 2);
    head.writeUInt16LE(sides.length, 4);
    sides.forEach(([side, depth, length = 1], index) => {
      const at = 6 + index * 16;
      head.writeUInt8(side % 256, at);
      head.writeUInt8(side % 256, at + 1);
      head.writeUInt16LE(depth, at + 6);
      head.writeUInt32LE(length, at + 8);
      head.writeUInt32LE(head.length + index, at + 12);
    });
    return Buffer.concat([head, Buffer.from(sides.map((_side, index) => index + 65))]);
  }

  it.each<[string, Parameters<typeof makeIcon>, string]>([
    [
      'the largest',
      [
        [16, 32],
        [48, 8],
        [32, 32],
      ],
      'B',
    ],
    [
      '256 pixels, which stand as 0',
      [
        [48, 32],
        [256, 32],
      ],
      'B',
    ],
    [
      'the most colours among equals',
      [
        [32, 4],
        [32, 32],
        [32, 8],
      ],
      'B',
    ],
    [
      'one whose bytes are there',
      [
        [16, 32],
        [48, 32, 0],
      ],
      'A',
    ],
  ])('shows %s', (_what, sides, content) => {
    const icon = readIcon(makeIcon(...sides));
    expect(icon?.largest.subarray(22).toString()).toBe(content);
    expect(icon?.pages).toBe(sides.length);
  });

  it('may name more pictures than fit into it', () => {
    const icon = makeIcon([16, 32]);
    icon.writeUInt16LE(65_535, 4);
    expect(readIcon(icon)?.pages).toBe(65_535);
    expect(readIcon(icon.subarray(0, 8))).toBeUndefined();
  });
});

describe('missing bytes', () => {
  const FILES: [mime: string, name: string][] = [
    ['image/heic', 'picture.heic'],
    ['image/jp2', 'picture.jp2'],
    ['image/j2c', 'picture.j2k'],
    ['image/vnd.adobe.photoshop', 'rgb.psd'],
    ['image/vnd.adobe.photoshop', 'cmyk.psd'],
    ['image/bmp', 'rle.bmp'],
  ];

  it.each(FILES)('of a %s (%s) are counted', (mime, name) => {
    const bytes = kept(name);
    expect(fillMissing(bytes, mime, 1e6)).toBeUndefined();
    expect(fillMissing(bytes.subarray(0, -10), mime, 1e6)).toHaveLength(bytes.length);
  });

  it.each(FILES)('of a %s (%s) are none or many, wherever it ends', (mime, name) => {
    const bytes = kept(name);
    for (let length = 0; length < bytes.length; length++) {
      const filled = fillMissing(bytes.subarray(0, length), mime, 1e6);
      if (filled) expect(filled.length).toBeGreaterThan(length);
    }
  });

  it('are not added when the file would be larger than allowed', () => {
    expect(fillMissing(kept('rgb.psd').subarray(0, -10), 'image/vnd.adobe.photoshop', 1000)).toBeUndefined();
  });

  it('are not added to a format that decoders take as it is', async () => {
    const tiff = await makeTiff({ width: 9, height: 9 });
    expect(fillMissing(tiff.subarray(0, 50), 'image/tiff', 1e6)).toBeUndefined();
  });
});

test('a client may declare the names that browsers have for these types', () => {
  const declare = (declared: string, mime: string) => isAllowed(declared, [declared], { mime, ext: '' });
  expect(declare('image/x-fuji-raf', 'image/x-fujifilm-raf')).toBe(true);
  expect(declare('image/x-photoshop', 'image/vnd.adobe.photoshop')).toBe(true);
  expect(declare('image/x-ms-bmp', 'image/bmp')).toBe(true);
  expect(isAllowed('image/x-pentax-pef', ['image/x-pentax-pef'], { mime: 'text/plain', ext: 'txt' })).toBe(
    false,
  );
});
