import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import sharp from 'sharp';
import { renderImage } from '../core/media/render.js';
import { fitInto, keyOf, type Rendering } from '../core/media/rendering.js';
import { imageQuery, toRendering } from '../server/images/parameters.js';
import {
  makeAvif,
  makeGif,
  makeJpeg,
  makePhotograph,
  makePng,
  makePngBomb,
  makeTiff,
  makeWebp,
} from './support/fixtures.js';

const LIMITS = { maxImagePixels: 100_000_000, memory: 1024 ** 3 };
const BOX: Rendering = { width: 300, height: 200, fit: 'inside', format: 'webp', quality: 80 };

const render = (bytes: Buffer, rendering: Partial<Rendering> = {}, limits = LIMITS) =>
  renderImage({ bytes, size: bytes.length, limits }, { ...BOX, ...rendering });

/** The colours of a rendered image. @param x, y from 0 to 1 */
async function pixelsOf(bytes: Uint8Array) {
  const { data, info } = await sharp(bytes).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  return (x: number, y: number) => {
    const at = 4 * (Math.floor(y * info.height) * info.width + Math.floor(x * info.width));
    return [...data.subarray(at, at + 4)];
  };
}

describe('the box of an image', () => {
  const photo = { width: 1200, height: 800 };

  it.each([
    ['inside', { width: 600, height: 600 }, { width: 600, height: 600, shrink: 2 }],
    ['inside', { width: 3000, height: 400 }, { width: 3000, height: 400, shrink: 2 }],
    ['inside', { width: 3000, height: 3000 }, { width: 3000, height: 3000, shrink: 1 }],
    ['cover', { width: 400, height: 400 }, { width: 400, height: 400, shrink: 2 }],
    ['cover', { width: 400, height: 100 }, { width: 400, height: 100, shrink: 3 }],
    // Larger than the image: its shape stays.
    ['cover', { width: 2400, height: 2400 }, { width: 800, height: 800, shrink: 1 }],
    ['cover', { width: 4800, height: 1200 }, { width: 1200, height: 300, shrink: 1 }],
    ['cover', { width: 16_000, height: 1 }, { width: 1200, height: 1, shrink: 1 }],
  ] as const)('%s %o is %o', (fit, box, expected) => {
    expect(fitInto(photo, { ...BOX, fit, ...box })).toEqual(expected);
  });

  it('never enlarges and never leaves the image, whatever the numbers', () => {
    for (const width of [1, 2, 3, 7, 99, 100, 101, 4000]) {
      for (const height of [1, 2, 50, 77, 4000]) {
        for (const image of [
          { width: 100, height: 77 },
          { width: 1, height: 9000 },
          { width: 3, height: 1 },
        ]) {
          const { shrink, ...box } = fitInto(image, { ...BOX, fit: 'cover', width, height });
          expect(shrink).toBeGreaterThanOrEqual(1);
          expect(box.width).toBeLessThanOrEqual(image.width);
          expect(box.height).toBeLessThanOrEqual(image.height);
          expect(Math.min(box.width, box.height)).toBeGreaterThanOrEqual(1);
        }
      }
    }
  });
});

describe('the rendering that a client asks for', () => {
  const SIZES = [100, 200, 400];
  const ask = (
    query: Record<string, string>,
    { accept, exact = false }: { accept?: string; exact?: boolean } = {},
  ) => toRendering(imageQuery.parse(query), accept, SIZES, exact);

  it.each([
    [{}, { width: 400, height: 400, fit: 'inside' }],
    [{ w: '100' }, { width: 100, height: 400 }],
    [{ w: '101' }, { width: 200, height: 400 }],
    [
      { w: '1', h: '399' },
      { width: 100, height: 400 },
    ],
    [{ h: '65535' }, { width: 400, height: 400 }],
    [{ w: '90', dpr: '2' }, { width: 200 }],
    [{ w: '100', dpr: '1.5' }, { width: 200 }],
    [{ w: '100', dpr: '4' }, { width: 400 }],
    [
      { w: '100', h: '100', fit: 'cover' },
      { width: 100, height: 100, fit: 'cover' },
    ],
    [
      { w: '100', fit: 'cover' },
      { width: 100, height: 400, fit: 'inside' },
    ],
    [{ format: 'jpeg', quality: '31' }, { quality: 50 }],
    [{ format: 'jpeg', quality: '1' }, { quality: 30 }],
    [{ format: 'jpeg', quality: '100' }, { quality: 90 }],
    [{ format: 'jpeg' }, { quality: 80 }],
    [{ format: 'avif' }, { quality: 50 }],
    [{ format: 'png', quality: '31' }, { quality: 0 }],
  ])('%o is rounded up to %o', (query, expected) => {
    expect(ask(query)).toMatchObject(expected);
  });

  it.each([
    [
      { w: '123', h: '77', fit: 'cover' },
      { width: 123, height: 77, fit: 'cover' },
    ],
    [
      { w: '33', dpr: '1.5' },
      { width: 50, height: 400 },
    ],
    [{ w: '9999' }, { width: 400 }],
    [{ format: 'webp', quality: '31' }, { quality: 31 }],
  ])('%o is taken exactly if it is signed, up to the largest size', (query, expected) => {
    expect(ask(query, { exact: true })).toMatchObject(expected);
  });

  it.each([
    ['image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8', 'avif'],
    ['image/webp,image/apng,image/*,*/*;q=0.8', 'webp'],
    ['image/avif;q=0,image/webp', 'webp'],
    ['image/webp;q=0.1', 'webp'],
    ['image/*,*/*;q=0.8', 'plain'],
    ['*/*', 'plain'],
    ['', 'plain'],
    [undefined, 'plain'],
    ['image/avif;;;=,', 'avif'],
    ['\u00ff'.repeat(5000), 'plain'],
  ])('in its best format for Accept: %j', (accept, format) => {
    expect(ask({}, accept === undefined ? {} : { accept }).format).toBe(format);
  });

  it.each([
    { w: '0' },
    { w: '-1' },
    { w: '1.5' },
    { w: '' },
    { w: '65536' },
    { w: '1e3' },
    { h: ' 5' },
    { dpr: '0.5' },
    { dpr: '5' },
    { dpr: 'NaN' },
    { quality: '0' },
    { quality: '101' },
    { fit: 'fill' },
    { format: 'svg' },
    { width: '100' },
    { w: ['1', '2'] },
  ])('%o is refused', (query) => {
    expect(imageQuery.safeParse(query).success).toBe(false);
  });

  it('has one key for one result', () => {
    const keys = [{}, { w: '400' }, { w: '399', h: '5000' }, { h: '400', fit: 'cover' }].map((query) =>
      keyOf(ask({ ...query, format: 'webp' })),
    );
    expect(new Set(keys)).toEqual(new Set(['400x400-inside-webp-80']));
  });
});

describe('rendering', () => {
  it.each([
    ['JPEG', makeJpeg],
    ['PNG', makePng],
    ['WebP', makeWebp],
    ['GIF', makeGif],
    ['TIFF', makeTiff],
    ['AVIF', makeAvif],
  ])('makes every format of a %s, with its colours', async (_name, make) => {
    const original = await make({ width: 400, height: 300 });
    for (const format of ['avif', 'webp', 'jpeg', 'png'] as const) {
      const { bytes, ...made } = await render(original, { format, width: 200, height: 200 });
      expect(made).toEqual({ contentType: `image/${format}`, width: 200, height: 150 });
      expect(await sharp(bytes).metadata()).toMatchObject({
        format: format === 'avif' ? 'heif' : format,
        width: 200,
        height: 150,
      });
      const at = await pixelsOf(bytes);
      const [red = 0, , blue = 0] = at(0.1, 0.5);
      expect(red).toBeGreaterThan(blue + 100);
      const [rightRed = 0, , rightBlue = 0] = at(0.9, 0.5);
      expect(rightBlue).toBeGreaterThan(rightRed + 100);
    }
  });

  it('turns a photograph upright and leaves out its tags', async () => {
    const photograph = await makePhotograph({ width: 1600, height: 1000 });
    const { bytes, width, height } = await render(photograph, { width: 640, height: 640, format: 'jpeg' });
    expect([width, height]).toEqual([400, 640]);
    const metadata = await sharp(bytes).metadata();
    expect(metadata.orientation).toBeUndefined();
    expect(metadata.exif).toBeUndefined();
    expect(metadata.xmp).toBeUndefined();
    const [red = 0, , blue = 0] = (await pixelsOf(bytes))(0.5, 0.1);
    expect(red).toBeGreaterThan(blue + 100);
  });

  it('cuts out the middle', async () => {
    const made = await render(await makeJpeg({ width: 400, height: 300 }), {
      width: 100,
      height: 200,
      fit: 'cover',
    });
    expect([made.width, made.height]).toEqual([100, 200]);
    const at = await pixelsOf(made.bytes);
    expect(at(0.1, 0.5)[0]).toBeGreaterThan(150);
    expect(at(0.9, 0.5)[2]).toBeGreaterThan(150);
  });

  it.each(['inside', 'cover'] as const)('does not enlarge (%s)', async (fit) => {
    const made = await render(await makePng({ width: 40, height: 30 }), { width: 3000, height: 3000, fit });
    expect([made.width, made.height]).toEqual(fit === 'inside' ? [40, 30] : [30, 30]);
  });

  it('keeps transparency where the format can, and else puts white behind it', async () => {
    const clear = await sharp({ create: { width: 60, height: 40, channels: 4, background: '#ff000000' } })
      .png()
      .toBuffer();
    const rendered = async (format: Rendering['format']) => {
      const { bytes, contentType } = await render(clear, { format });
      return { contentType, pixel: (await pixelsOf(bytes))(0.5, 0.5) };
    };
    expect(await rendered('plain')).toMatchObject({ contentType: 'image/png', pixel: [255, 0, 0, 0] });
    for (const format of ['webp', 'avif', 'png'] as const) expect((await rendered(format)).pixel[3]).toBe(0);
    expect((await rendered('jpeg')).pixel).toEqual([255, 255, 255, 255]);
    expect(await render(await makeJpeg({ width: 9, height: 9 }), { format: 'plain' })).toMatchObject({
      contentType: 'image/jpeg',
    });
  });

  it('shows CMYK, grey and 16 bits in sRGB', async () => {
    for (const space of ['cmyk', 'b-w', 'rgb16'] as const) {
      const flat = sharp({
        create: { width: 90, height: 60, channels: 3, background: '#808080' },
      }).toColourspace(space);
      const original = await (space === 'rgb16' ? flat.png() : flat.jpeg()).toBuffer();
      const { bytes } = await render(original, { format: 'png' });
      expect(await sharp(bytes).metadata()).toMatchObject({ space: 'srgb', depth: 'uchar' });
      for (const value of (await pixelsOf(bytes))(0.5, 0.5).slice(0, 3))
        expect(Math.abs(value - 128)).toBeLessThan(16);
    }
  });

  it('renders a large JPEG without decoding it whole, and refuses a bomb', async () => {
    const jpeg = gunzipSync(readFileSync('test/fixtures/cases/phone-108-megapixels.jpg.gz'));
    const { width, height } = await render(jpeg, { width: 640, height: 640 });
    expect([width, height]).toEqual([640, 480]);
    await expect(render(jpeg, { width: 9000, height: 9000 })).rejects.toMatchObject({
      code: 'too_many_pixels',
    });
    await expect(render(makePngBomb())).rejects.toMatchObject({ code: 'too_many_pixels' });
  });

  it('shows the part of a damaged image that can be decoded', async () => {
    const noise = sharp(randomBytes(400 * 300 * 3), { raw: { width: 400, height: 300, channels: 3 } });
    for (const format of ['jpeg', 'png', 'webp', 'gif'] as const) {
      const whole = await noise.clone().toFormat(format).toBuffer();
      const { bytes } = await render(whole.subarray(0, whole.length / 2), {
        format: 'png',
        width: 400,
        height: 300,
      });
      const at = await pixelsOf(bytes);
      const top = Array.from({ length: 50 }, (_, x) => at(x / 50, 0.05)[0] ?? 0);
      expect([format, Math.max(...top) - Math.min(...top) > 50]).toEqual([format, true]);
    }
  });

  it('shows the first picture of an animation', async () => {
    const frames = await Promise.all(
      ['#ff0000', '#0000ff'].map((background) =>
        sharp({ create: { width: 40, height: 30, channels: 3, background } })
          .png()
          .toBuffer(),
      ),
    );
    const animation = await sharp(frames, { join: { animated: true } })
      .gif({ delay: [100, 100] })
      .toBuffer();
    expect((await sharp(animation).metadata()).pages).toBe(2);
    const { bytes, width, height } = await render(animation, { format: 'png' });
    expect([width, height]).toEqual([40, 30]);
    expect((await pixelsOf(bytes))(0.5, 0.5)).toEqual([255, 0, 0, 255]);
  });

  it('refuses what is no image, and SVG', async () => {
    await expect(render(randomBytes(100))).rejects.toMatchObject({ code: 'unreadable' });
    const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
    await expect(render(svg)).rejects.toMatchObject({ code: 'unreadable' });
  });
});
