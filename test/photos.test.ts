import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { crc32, gunzipSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { readMetadata } from '../core/media/metadata.js';
import { makeThumbnails } from '../core/media/thumbnails.js';
import { type Directories, exifSegment, makeExif, makeJpegWith, segment, TAG } from './support/exif.js';
import { makeGif, makeJpeg, makePngBomb } from './support/fixtures.js';

const LIMITS = { maxImagePixels: 100_000_000, memory: 1024 ** 3 };

const input = (bytes: Buffer, limits = LIMITS) => ({ bytes, size: bytes.length, limits });

const caseFile = (name: string) => readFileSync(`test/fixtures/cases/${name}.jpg`);

// biome-ignore lint/suspicious/noExplicitAny: metadata has no schema
type Json = any;

const describeImage = (bytes: Buffer): Promise<Json> => readMetadata(input(bytes));

const describeExif = async (directories: Directories, order?: 'II' | 'MM'): Promise<Json> =>
  describeImage(await makeJpegWith(exifSegment(makeExif(directories, order))));

const LATIN1 = { e: '\xe9' };

describe('the date of a photograph', () => {
  it('has the offset that stands beside it, also when another date has another one', async () => {
    const { ifd0, exif } = await describeImage(caseFile('summer-photo-edited-in-winter'));
    expect(exif.DateTimeOriginal).toBe('2024-07-14T13:22:37.125+02:00');
    expect(exif.CreateDate).toBe('2024-07-14T13:22:37+02:00');
    expect(ifd0.ModifyDate).toBe('2024-12-05T09:00:00+01:00');
  });

  it('keeps the zone that stands inside it', async () => {
    const { ifd0, exif } = await describeImage(caseFile('date-with-zone-inside'));
    expect(exif).toEqual({ DateTimeOriginal: '2025-01-14T18:31:30Z' });
    expect(ifd0.ModifyDate).toBe('2025-01-14T18:31:30Z');
  });

  it('is none where zeros, blanks or a 30 February stand', async () => {
    const { ifd0, exif } = await describeImage(caseFile('impossible-dates-two-iso'));
    expect(ifd0).toEqual({ Make: 'Acme Optics', Model: 'Model 7' });
    expect(exif).toEqual({ ISO: 100 });
  });

  it.each([
    ['2024:05:06 07:08:09\0', '2024-05-06T07:08:09'],
    ['2024:05:06 07:08\0', '2024-05-06T07:08:00'],
    ['2024:05:06   :  :  \0', '2024-05-06'],
    ['2024-05-06T07:08:09\0', '2024-05-06T07:08:09'],
    ['2024/05/06 7:08:09\0', '2024-05-06T07:08:09'],
    ['2009-09-23 17:40:52 UTC\0', '2009-09-23T17:40:52Z'],
    ['2024:05:06 07:08:09.25-0330\0', '2024-05-06T07:08:09.25-03:30'],
    ['2024:05:06 07:08:09+99:00\0', '2024:05:06 07:08:09+99:00'],
    ['2024:02:29 00:00:00', '2024-02-29T00:00:00'],
    ['Mon Jan 14 2025\0', 'Mon Jan 14 2025'],
    ['2023:02:29 00:00:00\0', undefined],
    ['2024:13:01 00:00:00\0', undefined],
    ['2024:00:00 00:00:00\0', undefined],
    ['2024:05:06 24:61:00\0', undefined],
    ['0001:01:01 00:00:00\0', undefined],
    ['    :  :     :  :  \0', undefined],
    ['                   \0', undefined],
    ['0000:00:00 00:00:00\0', undefined],
    ['\0\0\0\0', undefined],
    ['', undefined],
  ])('%j is %j', async (written, read) => {
    const { exif } = await describeExif({
      exif: { [TAG.dateTimeOriginal]: written, [TAG.version]: Buffer.from('0232') },
    });
    expect(exif).toEqual({ ExifVersion: '2.32', ...(read ? { DateTimeOriginal: read } : {}) });
  });

  it.each([
    ['+05:45\0', '125\0', '2024-05-06T07:08:09.125+05:45'],
    ['-03:30\0', '5  \0', '2024-05-06T07:08:09.5-03:30'],
    ['+00:00\0', '000\0', '2024-05-06T07:08:09Z'],
    ['Z\0', '\0', '2024-05-06T07:08:09Z'],
    ['   :  \0', '   \0', '2024-05-06T07:08:09'],
    ['\0', 'abc\0', '2024-05-06T07:08:09'],
    ['+25:00\0', '01\0', '2024-05-06T07:08:09.01'],
  ])('beside an offset %j and a fraction %j is %s', async (offset, fraction, read) => {
    const { exif } = await describeExif({
      exif: {
        [TAG.dateTimeOriginal]: '2024:05:06 07:08:09\0',
        [TAG.offsetTimeOriginal]: offset,
        [TAG.subSecTimeOriginal]: fraction,
      },
    });
    expect(exif.DateTimeOriginal).toBe(read);
  });

  it('does not borrow the offset of another date', async () => {
    const { exif, ifd0 } = await describeExif({
      ifd0: { [TAG.modifyDate]: '2024:12:05 09:00:00\0' },
      exif: { [TAG.dateTimeOriginal]: '2024:05:06 07:08:09\0', [TAG.offsetTime]: '+01:00\0' },
    });
    expect(exif.DateTimeOriginal).toBe('2024-05-06T07:08:09');
    expect(ifd0.ModifyDate).toBe('2024-12-05T09:00:00+01:00');
  });

  it('is read in the byte order of Motorola and from a TIFF file, too', async () => {
    const directories = { exif: { [TAG.dateTimeOriginal]: '2024:05:06 07:08:09\0' } };
    expect((await describeExif(directories, 'MM')).exif.DateTimeOriginal).toBe('2024-05-06T07:08:09');
    // One grey pixel: width, height, bits, compression, colours, place, samples, rows, bytes.
    const pixel = { 256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1 };
    const shorts = Object.entries(pixel).map(([tag, value]) => [tag, { short: [value] }]);
    for (const order of ['II', 'MM'] as const) {
      const tiff = makeExif({ ...directories, ifd0: Object.fromEntries(shorts) }, order);
      const { image, ifd0, exif } = await describeImage(tiff);
      expect(image).toMatchObject({ format: 'tiff', width: 1, height: 1 });
      expect(exif.DateTimeOriginal).toBe('2024-05-06T07:08:09');
      expect(ifd0.StripOffsets).toBeUndefined();
    }
  });
});

describe('the EXIF of a PNG', () => {
  it('is found behind the pixels, too', async () => {
    const plain = { create: { width: 8, height: 8, channels: 3, background: '#808080' } } as const;
    const png = await sharp(plain).png().toBuffer();
    const exif = makeExif({ exif: { [TAG.dateTimeOriginal]: '2024:05:06 07:08:09\0' } });
    const chunk = Buffer.concat([Buffer.from('eXIf'), exif]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(exif.length, 0);
    frame.writeUInt32BE(crc32(chunk), 4);
    const end = png.length - 12;
    const pieces = [png.subarray(0, end), frame.subarray(0, 4), chunk, frame.subarray(4), png.subarray(end)];
    const found = await describeImage(Buffer.concat(pieces));
    expect(found.exif.DateTimeOriginal).toBe('2024-05-06T07:08:09');
  });
});

describe('the place of a photograph', () => {
  const place = {
    [TAG.latitudeRef]: 'S\0',
    [TAG.latitude]: {
      rational: [
        [33, 1],
        [5130, 100],
        [0, 1],
      ] as [number, number][],
    },
    [TAG.longitudeRef]: 'W\0',
    [TAG.longitude]: {
      rational: [
        [70, 1],
        [30, 1],
        [36, 1],
      ] as [number, number][],
    },
  };
  const zeros = {
    rational: [
      [0, 1],
      [0, 1],
      [0, 1],
    ] as [number, number][],
  };

  it('is none where a telephone has removed it', async () => {
    const { gps } = await describeImage(caseFile('gps-all-zero'));
    expect(gps).toEqual({ GPSVersionID: '2.2.0.0' });
  });

  it('is read with its hemisphere, its height and the time of the satellites', async () => {
    const { gps } = await describeExif({
      gps: {
        ...place,
        [TAG.altitudeRef]: { byte: [1] },
        [TAG.altitude]: { rational: [[431, 10]] },
        [TAG.gpsTime]: {
          rational: [
            [7, 1],
            [8, 1],
            [95, 10],
          ],
        },
        [TAG.gpsDate]: '2024:05:06\0',
      },
    });
    expect(gps.latitude).toBeCloseTo(-33.855, 6);
    expect(gps.longitude).toBeCloseTo(-70.51, 6);
    expect(gps).toMatchObject({ altitude: -43.1, GPSTimeStamp: '07:08:09.5', GPSDateStamp: '2024-05-06' });
  });

  it.each([
    ['zeros', { ...place, [TAG.latitude]: zeros, [TAG.longitude]: zeros }],
    [
      'a latitude without a number',
      {
        ...place,
        [TAG.latitude]: {
          rational: [
            [0, 0],
            [0, 0],
            [0, 0],
          ],
        },
      },
    ],
    [
      'a latitude beyond the pole',
      {
        ...place,
        [TAG.latitude]: {
          rational: [
            [91, 1],
            [0, 1],
            [0, 1],
          ],
        },
      },
    ],
    ['no hemisphere', { ...place, [TAG.latitudeRef]: '\0' }],
    ['a latitude only', { [TAG.latitudeRef]: 'N\0', [TAG.latitude]: place[TAG.latitude] }],
  ] as [string, Directories['gps']][])('is none with %s', async (_what, gps) => {
    const found = await describeExif({ ifd0: { [TAG.make]: 'Acme\0' }, ...(gps ? { gps } : {}) });
    expect(found.gps).toBeUndefined();
    expect(JSON.stringify(found)).not.toContain('NaN');
  });

  it('stays where only one coordinate is zero', async () => {
    const { gps } = await describeExif({ gps: { ...place, [TAG.latitude]: zeros } });
    expect(gps).toMatchObject({ latitude: 0, longitude: expect.closeTo(-70.51, 6) });
  });

  it('has no time that no clock shows', async () => {
    const time = {
      [TAG.gpsTime]: {
        rational: [
          [0, 0],
          [0, 0],
          [0, 0],
        ] as [number, number][],
      },
    };
    const { gps } = await describeExif({ gps: { ...place, ...time, [TAG.gpsDate]: '0000:00:00\0' } });
    expect(gps.GPSTimeStamp).toBeUndefined();
    expect(gps.GPSDateStamp).toBeUndefined();
  });
});

describe('other tags of a photograph', () => {
  it('end at the first NUL and are read as UTF-8 or as Latin-1', async () => {
    const { ifd0 } = await describeExif({
      ifd0: {
        [TAG.copyright]: 'Zoe Photographer\0The Editor\0',
        [TAG.make]: `Caf${LATIN1.e}\0`,
        [TAG.title]: { byte: [...Buffer.from('Füße 世\0junk', 'utf16le')] },
        315: Buffer.from('Zoë 世界\0').toString('latin1'),
      },
    });
    expect(ifd0).toEqual({
      Copyright: 'Zoe Photographer',
      Make: 'Café',
      XPTitle: 'Füße 世',
      Artist: 'Zoë 世界',
    });
  });

  it('reads the texts of press agencies in either encoding', async () => {
    const dataset = (number: number, text: Buffer) =>
      Buffer.concat([Buffer.from([0x1c, 2, number, 0, text.length]), text]);
    const records = Buffer.concat([
      dataset(5, Buffer.from('Le phare désolé')),
      dataset(80, Buffer.from('Zoé', 'latin1')),
    ]);
    const size = Buffer.from([0, 0, 0, records.length]);
    const resource = Buffer.from('Photoshop 3.0\x008BIM\x04\x04\0\0', 'latin1');
    const padding = Buffer.alloc(records.length % 2);
    const jpeg = await makeJpegWith(segment(0xed, Buffer.concat([resource, size, records, padding])));
    expect((await describeImage(jpeg)).iptc).toEqual({ ObjectName: 'Le phare désolé', Byline: 'Zoé' });
  });

  it('are no number where none is written', async () => {
    const { exif } = await describeExif({
      exif: {
        [TAG.exposureTime]: { rational: [[1, 0]] },
        [TAG.iso]: { short: [200, 0] },
        [TAG.lensInfo]: {
          rational: [
            [24, 1],
            [70, 1],
            [0, 0],
            [28, 10],
          ],
        },
      },
    });
    expect(exif).toEqual({ ISO: 200, LensInfo: [24, 70, null, 2.8] });
  });

  it('survive a broken one beside them, and whole directories that are none', async () => {
    const exif = makeExif({ ifd0: { [TAG.make]: 'Acme Optics\0', [TAG.copyright]: 'Copyright' } });
    // The first entry, Make, now points behind the end.
    exif.writeUInt32LE(0xffff_fff0, 10 + 8);
    const found = await describeImage(await makeJpegWith(exifSegment(exif)));
    expect(found.ifd0).toEqual({ Copyright: 'Copyright' });
    for (let length = 0; length < exif.length; length++) {
      await expect(
        describeImage(await makeJpegWith(exifSegment(exif.subarray(0, length)))),
      ).resolves.toMatchObject({
        image: { width: 8, height: 8 },
      });
    }
  });
});

describe('the size of an image', () => {
  it('is told however large it is', async () => {
    expect(await describeImage(makePngBomb())).toMatchObject({ image: { width: 50_000, height: 50_000 } });
  });

  it('is told from the first bytes of a file that is larger than memory', async () => {
    const jpeg = await makeJpeg({ width: 300, height: 200 });
    const first = { bytes: jpeg.subarray(0, 1000), size: 2 * 1024 ** 3, limits: LIMITS };
    expect(await readMetadata(first)).toMatchObject({ image: { width: 300, height: 200 } });
    await expect(readMetadata({ ...first, bytes: jpeg.subarray(0, 10) })).rejects.toMatchObject({
      code: 'too_much_memory',
    });
    await expect(makeThumbnails(first)).rejects.toMatchObject({ code: 'too_much_memory' });
  });
});

describe('thumbnails', () => {
  const sizes = ({ thumbnails }: { thumbnails: { width: number; height: number }[] }) =>
    thumbnails.map(({ width, height }) => [width, height]);

  /** Noise, which needs many bytes a row. */
  const noise = () => sharp(randomBytes(400 * 300 * 3), { raw: { width: 400, height: 300, channels: 3 } });

  it('are made of a large JPEG without decoding it whole', async () => {
    const jpeg = gunzipSync(readFileSync('test/fixtures/cases/phone-108-megapixels.jpg.gz'));
    expect((await describeImage(jpeg)).image).toMatchObject({ width: 12_000, height: 9_000 });
    const made = await makeThumbnails(input(jpeg));
    expect(sizes(made)).toEqual([
      [1200, 900],
      [600, 450],
      [200, 150],
    ]);
    expect(made.damage).toBeUndefined();
  });

  it('are refused where more would have to be decoded or kept than is allowed', async () => {
    await expect(makeThumbnails(input(makePngBomb()))).rejects.toMatchObject({ code: 'too_many_pixels' });
    const flat = { create: { width: 4_000, height: 3_000, channels: 3, background: '#804020' } } as const;
    const small = { maxImagePixels: 1_000_000, memory: 1024 ** 3 };
    await expect(makeThumbnails(input(await sharp(flat).jpeg().toBuffer(), small))).rejects.toMatchObject({
      code: 'too_many_pixels',
    });
    const progressive = await sharp(flat).jpeg({ progressive: true }).toBuffer();
    await expect(makeThumbnails(input(progressive, { ...LIMITS, memory: 30_000_000 }))).rejects.toMatchObject(
      {
        code: 'too_much_memory',
      },
    );
    expect(sizes(await makeThumbnails(input(progressive)))).toHaveLength(3);
  });

  it('are whole where only the end marker is missing', async () => {
    const made = await makeThumbnails(input(caseFile('no-end-marker')));
    expect(sizes(made)).toEqual([
      [320, 240],
      [320, 240],
      [200, 150],
    ]);
    expect(made.damage).toBeUndefined();
    const progressive = await noise().jpeg({ progressive: true }).toBuffer();
    expect(await makeThumbnails(input(progressive.subarray(0, -2)))).not.toHaveProperty('damage');
  });

  it.each([
    ['a JPEG', () => half(noise().jpeg())],
    ['a progressive JPEG', () => half(noise().jpeg({ progressive: true }))],
    ['a PNG', () => half(noise().png())],
    ['a WebP', () => half(noise().webp())],
    ['a GIF', () => half(noise().gif({ effort: 1 }))],
  ])('show the existing part of %s that is cut off, and say so', async (_what, make) => {
    const made = await makeThumbnails(input(await make()));
    expect(sizes(made)[0]).toEqual([400, 300]);
    expect(made.damage).toMatch(/only a part/i);
    const { data, info } = await sharp(made.thumbnails[0]?.bytes).raw().toBuffer({ resolveWithObject: true });
    const spread = (row: number) => {
      const pixels = data.subarray(row * info.width * info.channels, (row + 1) * info.width * info.channels);
      return Math.max(...pixels) - Math.min(...pixels);
    };
    // Noise at the top.
    expect(spread(10)).toBeGreaterThan(50);
  });

  it('are refused where nothing can be decoded', async () => {
    const gif = await makeGif({ width: 30, height: 20 });
    await expect(makeThumbnails(input(gif.subarray(0, 14)))).rejects.toMatchObject({ code: 'unreadable' });
    await expect(makeThumbnails(input(randomBytes(100)))).rejects.toMatchObject({ code: 'unreadable' });
    const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
    await expect(makeThumbnails(input(svg))).rejects.toMatchObject({ code: 'unreadable' });
  });
});

async function half(image: Sharp): Promise<Buffer> {
  const bytes = await image.toBuffer();
  return bytes.subarray(0, bytes.length / 2);
}
