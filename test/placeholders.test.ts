import sharp, { type Sharp } from 'sharp';
import { thumbHashToApproximateAspectRatio, thumbHashToAverageRGBA, thumbHashToRGBA } from 'thumbhash';
import { makeThumbnails } from '../core/media/thumbnails.js';
import { makePhotograph } from './support/fixtures.js';
import { Random } from './support/random.js';

const LIMITS = { maxImagePixels: 100_000_000, memory: 1024 ** 3 };

async function placeholderOf(bytes: Buffer) {
  const { placeholder } = await makeThumbnails({ bytes, size: bytes.length, limits: LIMITS });
  return placeholder;
}

/** The placeholder, and the hash decoded: colours and alpha from 0 to 255. */
async function shown(image: Sharp | Buffer) {
  const { color = '', thumbhash = '' } =
    (await placeholderOf(Buffer.isBuffer(image) ? image : await image.toBuffer())) ?? {};
  const hash = Buffer.from(thumbhash, 'base64');
  const { w, h, rgba } = thumbHashToRGBA(hash);
  const { r, g, b, a } = thumbHashToAverageRGBA(hash);
  return {
    color,
    rgb: [...Buffer.from(color.slice(1), 'hex')],
    average: [r, g, b, a].map((value) => value * 255),
    aspect: thumbHashToApproximateAspectRatio(hash),
    bytes: hash.length,
    /** @param x, y from 0 to 1 */
    at: (x: number, y: number) => {
      const pixel = 4 * (Math.floor(y * h) * w + Math.floor(x * w));
      return [...rgba.subarray(pixel, pixel + 4)];
    },
  };
}

/** An image of one colour. @param background also with alpha: `#rrggbbaa` */
function flat(background: string, width = 400, height = 300): Sharp {
  return sharp({ create: { width, height, channels: background.length > 7 ? 4 : 3, background } });
}

/** An image of two colours: `#rrggbb` or `#rrggbbaa`. @param share of the left one in the width */
function beside(left: string, right: string, share: number, width = 400, height = 300): Sharp {
  const colors = [left, right].map((text) => Buffer.from(text.slice(1), 'hex'));
  const channels = colors[0]?.length === 4 ? 4 : 3;
  const pixels = Array.from(
    { length: width * height },
    (_, at) => colors[Number(at % width >= width * share)] ?? Buffer.alloc(0),
  );
  return sharp(Buffer.concat(pixels), { raw: { width, height, channels } });
}

function expectNear(found: number[], expected: number[], by: number): void {
  expect(found).toHaveLength(expected.length);
  for (const [index, value] of expected.entries())
    expect(Math.abs((found[index] ?? 0) - value)).toBeLessThanOrEqual(by);
}

describe('the colour of a placeholder', () => {
  it.each(['#804020', '#ff0000', '#000000', '#ffffff', '#0f1011'])(
    'is exactly %s where the image is',
    async (color) => {
      expect((await shown(flat(color).png())).color).toBe(color);
      expect((await shown(flat(color).webp({ lossless: true }))).color).toBe(color);
    },
  );

  it.each(['jpeg', 'webp', 'avif', 'gif', 'tiff'] as const)(
    'is that of the larger part of a %s',
    async (format) => {
      const image = beside('#c03028', '#2040c0', 0.6).toFormat(format, { quality: 90 });
      expectNear((await shown(image)).rgb, [0xc0, 0x30, 0x28], 6);
    },
  );

  it('is one of the image, where a mean of its colours would be none', async () => {
    const image = beside('#ff0000', '#0000ff', 0.55).png();
    expect((await shown(image)).color).toBe('#ff0000');
  });

  it('is not split by noise, and not lost to a smaller part without noise', async () => {
    const [width, height] = [300, 200];
    const pixels = Buffer.alloc(width * height * 3);
    const random = new Random(7);
    for (let at = 0; at < pixels.length; at += 3) {
      const x = (at / 3) % width;
      // Grey around the border of two cells in each channel; a tenth is exactly green.
      if (x < width / 10) pixels.set([0, 200, 0], at);
      else
        pixels.set(
          [0, 1, 2].map(() => random.whole(112, 143)),
          at,
        );
    }
    const image = sharp(pixels, { raw: { width, height, channels: 3 } }).png();
    expectNear((await shown(image)).rgb, [128, 128, 128], 4);
  });

  it('is found in grey, CMYK and 16 bits, too', async () => {
    expectNear((await shown(flat('#808080').toColourspace('b-w').png())).rgb, [128, 128, 128], 1);
    expectNear((await shown(flat('#c03028').toColourspace('rgb16').png())).rgb, [0xc0, 0x30, 0x28], 1);
    const [red = 0, green = 0, blue = 0] = (await shown(flat('#c03028').toColourspace('cmyk').jpeg())).rgb;
    expect(red).toBeGreaterThan(140);
    expect(Math.max(green, blue)).toBeLessThan(110);
  });
});

describe('the hash of a placeholder', () => {
  it('is an image with the same colours at the same places and of the same shape', async () => {
    const { at, average, aspect, bytes } = await shown(beside('#d02020', '#2020d0', 0.5, 900, 300).png());
    expect(bytes).toBeLessThan(30);
    expect(aspect).toBeGreaterThan(2);
    expectNear(average, [0x78, 0x20, 0x78, 255], 12);
    const [red = 0, , blue = 0] = at(0.1, 0.5);
    expect(red).toBeGreaterThan(blue + 100);
    const [rightRed = 0, , rightBlue = 0] = at(0.9, 0.5);
    expect(rightBlue).toBeGreaterThan(rightRed + 100);
  });

  it('is upright, as the thumbnails are', async () => {
    const { at, aspect } = await shown(await makePhotograph());
    expect(aspect).toBeLessThan(1);
    const [red = 0, , blue = 0] = at(0.5, 0.1);
    expect(red).toBeGreaterThan(blue + 100);
  });
});

describe('transparent parts', () => {
  it('are transparent in the hash and have no colour', async () => {
    const { color, at, average } = await shown(beside('#00ff0000', '#e08020ff', 0.75).png());
    expect(color).toBe('#e08020');
    expect(at(0.2, 0.5)[3]).toBeLessThan(64);
    expect(at(0.95, 0.5)[3]).toBeGreaterThan(190);
    expectNear(average.slice(0, 3), [0xe0, 0x80, 0x20], 12);
    expectNear(average.slice(3), [64], 20);
  });

  it('make no placeholder if they are all of the image', async () => {
    expect(await placeholderOf(await flat('#ff000000').png().toBuffer())).toBeUndefined();
  });

  it('count by their alpha', async () => {
    const { color } = await shown(beside('#0000ff20', '#ff0000ff', 0.7).png());
    expect(color).toBe('#ff0000');
  });
});

it.each([
  [1, 1],
  [1, 5000],
  [5000, 1],
  [101, 100],
])('an image of %i × %i pixels has a placeholder', async (width, height) => {
  expect((await shown(flat('#336699', width, height).png())).color).toBe('#336699');
});
