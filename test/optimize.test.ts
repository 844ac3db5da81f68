import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import exifr from 'exifr';
import sharp, { type Sharp } from 'sharp';
import { completeSettings, type ImageSettings } from '../core/media/image-settings.js';
import { readMetadata } from '../core/media/metadata.js';
import { optimizeImage } from '../core/media/optimize.js';
import { exifSegment, makeExif, makeJpegWith, segment, TAG } from './support/exif.js';
import { makeGif, makePhotograph, makePng, makePngBomb, makeTruncatedJpeg } from './support/fixtures.js';

/* What the task `optimize` makes of images. optimized-images.test.ts has the way from an upload to the answer. */

const LIMITS = { maxImagePixels: 100_000_000, memory: 1024 ** 3 };
const SIZE = { width: 400, height: 240 };

async function optimize(bytes: Buffer, settings: ImageSettings = {}, limits = LIMITS) {
  const { format } = await sharp(bytes, { limitInputPixels: false }).metadata();
  const type = `image/${format === 'heif' ? 'avif' : format}`;
  const { bytes: made, ...facts } = await optimizeImage(
    { bytes, size: bytes.length, limits },
    completeSettings(type, settings),
  );
  return { ...facts, bytes: made && Buffer.from(made) };
}

/** Optimises, and expects that there is a result. */
async function made(bytes: Buffer, settings: ImageSettings = {}): Promise<Buffer> {
  const { bytes: result, reason } = await optimize(bytes, settings);
  if (!result) throw new Error(`the original was kept: ${reason}`);
  return result;
}

/** The colour of the first pixel in sRGB, as a viewer shows it. */
async function colourOf(image: Buffer): Promise<number[]> {
  const { hasProfile } = await sharp(image).metadata();
  const opened = sharp(image).removeAlpha().toColourspace('srgb');
  const shown = hasProfile ? opened.withIccProfile('srgb', { attach: false }) : opened;
  return [...(await shown.raw().toBuffer()).subarray(0, 3)];
}

const plain = (background: string, size = SIZE): Sharp =>
  sharp({ create: { ...size, channels: 3, background } });

/** Pixels that no encoder can foresee. */
const noise = ({ width, height } = SIZE, channels: 1 | 3 | 4 = 3): Sharp =>
  sharp(randomBytes(width * height * channels), { raw: { width, height, channels } });

async function makeAnimation(format: 'gif' | 'webp', side = 64): Promise<Buffer> {
  const frames = ['#f00000', '#00f000', '#0000f0'].map((colour) =>
    plain(colour, { width: side, height: side }).png().toBuffer(),
  );
  const joined = sharp(await Promise.all(frames), { join: { animated: true } });
  return joined.toFormat(format, { delay: [100, 200, 300], loop: 2 }).toBuffer();
}

describe('an image', () => {
  test('becomes smaller in bytes, and in pixels if it has a limit', async () => {
    const photograph = await makePhotograph();
    const facts = await optimize(photograph, { maxWidth: 500, maxHeight: 500, quality: 60 });
    // It is stored lying on its side.
    expect(facts).toMatchObject({ format: 'jpeg', width: 313, height: 500, durationMs: expect.any(Number) });
    expect(facts.bytes?.length).toBeLessThan(photograph.length);
    expect(await sharp(facts.bytes ?? Buffer.alloc(0)).metadata()).toMatchObject({ width: 313, height: 500 });
  });

  test.each<[ImageSettings, number, number]>([
    [{ maxWidth: 100 }, 100, 60],
    [{ maxHeight: 100 }, 167, 100],
    [{ maxWidth: 5000, maxHeight: 5000 }, 400, 240],
    [{ maxWidth: 100, maxHeight: 100, fit: 'cover' }, 100, 100],
    [{ maxWidth: 100, maxHeight: 100, fit: 'contain' }, 100, 100],
    [{ maxWidth: 100, maxHeight: 100, fit: 'fill' }, 100, 100],
    [{ maxWidth: 100, maxHeight: 100, fit: 'outside' }, 167, 100],
  ])('fits %j as %i × %i', async (settings, width, height) => {
    const jpeg = await noise().jpeg({ quality: 100 }).toBuffer();
    expect(await optimize(jpeg, settings)).toMatchObject({ width, height });
  });

  test.each(['jpeg', 'png', 'webp', 'avif'] as const)('becomes %s if that is asked for', async (format) => {
    const png = await makePng(SIZE);
    const result = await optimize(png, { format });
    expect(result).toMatchObject({ format, ...SIZE });
    const header = await sharp(result.bytes ?? Buffer.alloc(0)).metadata();
    expect(header.format).toBe(format === 'avif' ? 'heif' : format);
  });

  test('that would become larger stays as it is, unless a format was asked for', async () => {
    const jpeg = await noise().jpeg({ quality: 20, mozjpeg: true }).toBuffer();
    const kept = await optimize(jpeg, { quality: 100 });
    expect(kept).toMatchObject({ bytes: null, format: 'jpeg', ...SIZE });
    expect(kept.reason).toMatch(new RegExp(`^the result has \\d+ bytes, the original ${jpeg.length}$`));
    const asked = await made(jpeg, { quality: 100, format: 'jpeg' });
    expect(asked.length).toBeGreaterThan(jpeg.length);
  });

  test('loses no pixel where it must not', async () => {
    const pixels = (await noise().raw().toBuffer()).map((value) => value & 0x11) as Buffer;
    const png = await noise2(pixels).png({ compressionLevel: 0 }).toBuffer();
    for (const settings of [{}, { lossless: true }, { format: 'webp', lossless: true }] as ImageSettings[]) {
      const result = await made(png, settings);
      expect(result.length).toBeLessThan(png.length);
      expect((await sharp(result).raw().toBuffer()).equals(pixels)).toBe(true);
    }
    const jpeg = await noise2(pixels).jpeg().toBuffer();
    expect(await optimize(jpeg, { lossless: true })).toMatchObject({
      bytes: null,
      reason: 'a JPEG cannot be encoded without loss',
    });
  });

  test('that a PNG of few colours holds keeps them', async () => {
    const source = await makePng(SIZE);
    const indexed = await sharp(source).png({ palette: true, compressionLevel: 0 }).toBuffer();
    const result = await made(indexed);
    expect(await sharp(result).metadata()).toMatchObject({ isPalette: true });
    expect((await sharp(result).raw().toBuffer()).equals(await sharp(indexed).raw().toBuffer())).toBe(true);
  });

  test('loses colours in a PNG only if its quality is less than 100', async () => {
    const result = await made(await noise().png().toBuffer(), { quality: 70 });
    expect(await sharp(result).metadata()).toMatchObject({ format: 'png', isPalette: true });
  });

  test('gets a white ground where a JPEG holds no alpha', async () => {
    const clear = sharp({ create: { ...SIZE, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } });
    const png = await clear.png().toBuffer();
    for (const more of [{}, { maxWidth: 100, maxHeight: 100, fit: 'contain' }] as ImageSettings[]) {
      expect(await colourOf(await made(png, { format: 'jpeg', ...more }))).toEqual([255, 255, 255]);
    }
    const webp = await made(png, { format: 'webp' });
    expect(await sharp(webp).metadata()).toMatchObject({ hasAlpha: true });
  });
});

const noise2 = (pixels: Buffer): Sharp => sharp(pixels, { raw: { ...SIZE, channels: 3 } });

describe('an animation', () => {
  test.each(['gif', 'webp'] as const)('of %s keeps its frames and their times', async (format) => {
    const animation = await makeAnimation(format);
    for (const settings of [{ maxWidth: 16 }, { format: 'webp' }] as ImageSettings[]) {
      const result = await optimize(animation, settings);
      const side = settings.maxWidth ?? 64;
      expect(result).toMatchObject({ format: settings.format ?? format, width: side, height: side });
      const header = await sharp(result.bytes ?? Buffer.alloc(0)).metadata();
      expect(header).toMatchObject({ pages: 3, delay: [100, 200, 300], loop: 2 });
    }
  });

  test.each(['jpeg', 'png', 'avif'] as const)('stays as it is where %s was asked for', async (format) => {
    expect(await optimize(await makeAnimation('gif'), { format })).toMatchObject({
      bytes: null,
      reason: `the image is animated, and ${format} holds no animation`,
      width: 64,
      height: 64,
    });
  });

  test('counts with all its frames', async () => {
    const small = { ...LIMITS, maxImagePixels: 64 * 64 * 2 };
    await expect(optimize(await makeAnimation('gif'), { maxWidth: 16 }, small)).rejects.toMatchObject({
      code: 'too_many_pixels',
    });
    await expect(optimize(await makeGif({ width: 64, height: 64 }), {}, small)).resolves.toBeDefined();
  });
});

describe('colours', () => {
  const GREEN = '#20c040';
  const shown = [32, 192, 64];
  const expectShown = async (image: Buffer, tolerance: number) => {
    for (const [index, value] of (await colourOf(image)).entries()) {
      expect(Math.abs(value - (shown[index] ?? 0))).toBeLessThanOrEqual(tolerance);
    }
  };
  const p3 = () => plain(GREEN).withIccProfile('p3');
  const sources: [string, () => Promise<Buffer>][] = [
    ['8 bits of Display P3', () => p3().png({ compressionLevel: 0 }).toBuffer()],
    ['16 bits of Display P3', () => p3().toColourspace('rgb16').png({ compressionLevel: 0 }).toBuffer()],
    ['a JPEG of Display P3', () => p3().jpeg({ quality: 100 }).toBuffer()],
    [
      '16 bits without a profile',
      () => plain(GREEN).toColourspace('rgb16').png({ compressionLevel: 0 }).toBuffer(),
    ],
  ];

  test.each(sources)('of %s look the same afterwards', async (_what, make) => {
    const source = await make();
    await expectShown(source, 5);
    for (const metadata of ['strip', 'keep', 'strip-gps'] as const) {
      for (const format of ['jpeg', 'png', 'webp'] as const) {
        const result = await made(source, { metadata, format, quality: 100 });
        await expectShown(result, 6);
        const { hasProfile } = await sharp(source).metadata();
        expect((await sharp(result).metadata()).hasProfile).toBe(metadata !== 'strip' && hasProfile);
      }
    }
  });

  test('of CMYK become those of sRGB', async () => {
    const cmyk = await plain(GREEN)
      .toColourspace('cmyk')
      .withIccProfile('cmyk')
      .jpeg({ quality: 100 })
      .toBuffer();
    expect(await sharp(cmyk).metadata()).toMatchObject({ space: 'cmyk' });
    const [before, after] = [
      await colourOf(cmyk),
      await colourOf(await made(cmyk, { format: 'jpeg', quality: 100 })),
    ];
    for (const [index, value] of after.entries())
      expect(Math.abs(value - (before[index] ?? 0))).toBeLessThanOrEqual(4);
    const kept = await sharp(await made(cmyk, { metadata: 'keep', format: 'webp' })).metadata();
    expect(kept).toMatchObject({ space: 'srgb', channels: 3, hasProfile: false });
  });

  test('of a PNG keep 16 bits only if it must lose nothing', async () => {
    const deep = await p3().toColourspace('rgb16').png({ compressionLevel: 0 }).toBuffer();
    const depthOf = async (settings: ImageSettings) =>
      (await sharp(await made(deep, settings)).metadata()).depth;
    expect(await depthOf({})).toBe('uchar');
    expect(await depthOf({ lossless: true })).toBe('ushort');
    await expectShown(await made(deep, { lossless: true }), 6);
  });

  test('that are grey stay grey', async () => {
    const grey = await noise(SIZE, 1).toColourspace('b-w').jpeg({ quality: 100 }).toBuffer();
    expect(await sharp(grey).metadata()).toMatchObject({ space: 'b-w', channels: 1 });
    expect(await sharp(await made(grey)).metadata()).toMatchObject({ space: 'b-w', channels: 1 });
    expect((await optimize(grey, { format: 'webp' })).bytes).not.toBeNull();
  });
});

describe('metadata', () => {
  /** The place of makePhotograph(), as rational numbers: 48/1 51/1 30/1. */
  const LATITUDE = Buffer.from('300000000100000033000000010000001e00000001000000', 'hex');
  const TITLE = 'Le phare';

  const XMP = (place: string) => `<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:drone="http://www.dji.com/drone-dji/1.0/" xmp:Rating="4" ${place}</rdf:Description></rdf:RDF></x:xmpmeta>`;

  /** Reads EXIF by exifr, which knows neither WebP nor AVIF, but the block alone. */
  async function tagsOf(image: Buffer) {
    const { exif = Buffer.alloc(0) } = await sharp(image).metadata();
    const tiff = exif.subarray(exif.toString('latin1', 0, 4) === 'Exif' ? 6 : 0);
    return exifr.parse(tiff, { gps: true, translateValues: false });
  }

  test('goes if it is to be stripped', async () => {
    const photograph = await makePhotograph();
    for (const format of ['keep', 'jpeg', 'png', 'webp', 'avif'] as const) {
      const { exif, xmp, iptc, icc } = await sharp(await made(photograph, { format })).metadata();
      expect([exif, xmp, iptc, icc]).toEqual([undefined, undefined, undefined, undefined]);
    }
  });

  test('stays if it is to be kept, for an image that is upright now', async () => {
    const photograph = await makePhotograph();
    for (const format of ['keep', 'png', 'webp', 'avif'] as const) {
      const result = await made(photograph, { metadata: 'keep', format });
      expect(await tagsOf(result)).toMatchObject({ Make: 'Landfall', latitude: expect.closeTo(48.858, 2) });
      expect((await sharp(result).metadata()).xmp?.includes(TITLE)).toBe(true);
      const { orientation = 1, width, height } = await sharp(result).metadata();
      expect([orientation, width, height]).toEqual([1, 1000, 1600]);
    }
  });

  test.each(['keep', 'jpeg', 'png', 'webp', 'avif'] as const)(
    'loses only the place in %s',
    async (format) => {
      const photograph = await makePhotograph();
      expect(photograph.includes(LATITUDE)).toBe(true);
      const result = await made(photograph, { metadata: 'strip-gps', format });
      if (!['webp', 'avif'].includes(format)) expect(await exifr.gps(result)).toBeUndefined();
      const tags = await tagsOf(result);
      expect(tags).toMatchObject({ Make: 'Landfall', DateTimeOriginal: expect.anything() });
      expect(Object.keys(tags).filter((name) => /gps|latitude|longitude|altitude/i.test(name))).toEqual([]);
      expect(result.includes(LATITUDE)).toBe(false);
      const read = await readMetadata({ bytes: result, size: result.length, limits: LIMITS });
      expect(read).not.toHaveProperty('gps');
      expect(read).toMatchObject({ ifd0: { Make: 'Landfall', Model: 'Test 1' }, exif: expect.anything() });
      expect(JSON.stringify(read.xmp)).toContain(TITLE);
    },
  );

  test.each(['II', 'MM'] as const)(
    'loses the notes of the camera maker with the place (%s)',
    async (order) => {
      const exif = makeExif(
        {
          ifd0: { [TAG.make]: 'Acme\0' },
          exif: {
            [TAG.dateTimeOriginal]: '2024:05:06 07:08:09\0',
            37500: Buffer.from('Acme\0\0\0 somewhere near the lighthouse'),
          },
          gps: { [TAG.latitudeRef]: 'N\0', [TAG.gpsDate]: '2024:05:06\0' },
        },
        order,
      );
      const jpeg = await makeJpegWith(exifSegment(exif));
      const kept = await made(jpeg, { metadata: 'keep', format: 'jpeg' });
      expect(kept.includes('lighthouse') && kept.includes('2024:05:06\0')).toBe(true);
      const result = await made(jpeg, { metadata: 'strip-gps', format: 'jpeg' });
      expect(result.includes('lighthouse') || result.includes('2024:05:06\0')).toBe(false);
      expect(await exifr.parse(result)).toMatchObject({ Make: 'Acme', DateTimeOriginal: expect.any(Date) });
    },
  );

  test.each<[string, string, boolean]>([
    [
      'attributes',
      `exif:GPSLatitude="48,51.5N" drone:GpsLongitude='2.1' drone:AbsoluteAltitude="+35">`,
      true,
    ],
    [
      'elements',
      `><exif:GPSLatitude>48,51.5N</exif:GPSLatitude><drone:Longitude/><exif:GPSDestination rdf:parseType="Resource">
       <exif:Value>48</exif:Value></exif:GPSDestination>`,
      true,
    ],
    ['a text', '><xmp:Label>GPS 48,51.5N</xmp:Label>', false],
    ['a section', '><xmp:Label><![CDATA[48,51.5N]]></xmp:Label>', false],
  ])('of XMP loses a place in %s', async (_what, place, keepsRest) => {
    const jpeg = await plain('#808080').withXmp(XMP(place)).jpeg().toBuffer();
    expect(jpeg.includes('Rating')).toBe(true);
    const result = await made(jpeg, { metadata: 'strip-gps', format: 'jpeg' });
    const { xmp } = await sharp(result).metadata();
    expect(xmp?.includes('xmp:Rating="4"') ?? false).toBe(keepsRest);
    expect(/gps|48,51|2\.1|\+35|latitude|longitude/i.test(result.toString('latin1'))).toBe(false);
  });

  test('of Photoshop, which may hold a second copy of the place, goes with it', async () => {
    const hidden = Buffer.from('Photoshop 3.0\x008BIM\x04\x22\x00\x00\x00\x00\x00\x08N 48,51.', 'latin1');
    const jpeg = await makeJpegWith(segment(0xed, hidden));
    expect((await made(jpeg, { metadata: 'strip-gps', format: 'jpeg' })).includes('48,51')).toBe(false);
  });
});

describe('an image that is not as it should be', () => {
  test('has no optimised form if it is cut off, or none', async () => {
    for (const bytes of [await makeTruncatedJpeg(), (await makePng(SIZE)).subarray(0, 300)]) {
      await expect(optimize(bytes, { format: 'webp' })).rejects.toMatchObject({ code: 'unreadable' });
    }
  });

  test('is whole also without the marker at its end', async () => {
    const jpeg = readFileSync('test/fixtures/cases/no-end-marker.jpg');
    expect(await optimize(jpeg, { format: 'webp' })).toMatchObject({ format: 'webp' });
  });

  test('is not decoded if it has too many pixels, or is only there in part', async () => {
    await expect(optimize(makePngBomb())).rejects.toMatchObject({ code: 'too_many_pixels' });
    const png = await makePng(SIZE);
    await expect(
      optimizeImage({ bytes: png, size: png.length + 1, limits: LIMITS }, completeSettings('image/png')),
    ).rejects.toMatchObject({ code: 'too_much_memory' });
  });

  test('is decoded at a lower scale if it is a JPEG of many pixels that becomes small', async () => {
    const jpeg = gunzipSync(readFileSync('test/fixtures/cases/phone-108-megapixels.jpg.gz'));
    await expect(optimize(jpeg)).rejects.toMatchObject({ code: 'too_many_pixels' });
    await expect(optimize(jpeg, { maxWidth: 8000 })).rejects.toMatchObject({ code: 'too_many_pixels' });
    const { width, height } = await optimize(jpeg, { maxWidth: 1000, maxHeight: 1000 });
    expect(Math.max(width, height)).toBe(1000);
  });

  test('is refused if the format does not hold its sides', async () => {
    const long = await plain('#808080', { width: 17_000, height: 2 }).png().toBuffer();
    await expect(optimize(long, { format: 'webp' })).rejects.toMatchObject({
      code: 'too_many_pixels',
      detail: expect.stringContaining('set maxWidth'),
    });
    expect(await optimize(long, { format: 'webp', maxWidth: 1000 })).toMatchObject({ width: 1000 });
    expect(await optimize(long, { format: 'jpeg' })).toMatchObject({ width: 17_000 });
  });
});
