import sharp from 'sharp';
import { rgbaToThumbHash } from 'thumbhash';

/* What a page shows in the place of an image until the image is there. */

export interface Placeholder {
  /** A ThumbHash (https://evanw.github.io/thumbhash/) in base64: about 25 bytes, which a page turns into a blurred image. */
  thumbhash: string;
  /** The colour that most of the image has, or nearly has: `#rrggbb`. */
  color: string;
}

/** Pixels as sharp gives them without compression. */
export interface Pixels {
  data: Uint8Array;
  info: { width: number; height: number; channels: 1 | 2 | 3 | 4 };
}

/** Longest side in pixels of the image that a ThumbHash is made of. */
const SIDE = 100;

/** Colours are counted in cells: in each channel, 16 neighbouring values share a cell. */
const CELL = 16;

/** Cells in a row: those of all values, and an empty one at both ends, so that each cell of colours has neighbours. */
const ROW = 256 / CELL + 2;

const STEPS = [-1, 0, 1];

/** From a cell to itself and to the 26 cells around it. */
const AROUND = STEPS.flatMap((r) => STEPS.flatMap((g) => STEPS.map((b) => (r * ROW + g) * ROW + b)));

/** Makes the placeholder of an image. @returns undefined if all of the image is transparent */
export async function makePlaceholder({ data, info }: Pixels): Promise<Placeholder | undefined> {
  const { data: rgba, info: small } = await sharp(data, { raw: info })
    .resize({ width: SIDE, height: SIDE, fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb')
    .ensureAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const color = dominantColor(rgba);
  if (!color) return undefined;
  const hash = rgbaToThumbHash(small.width, small.height, rgba);
  return { thumbhash: Buffer.from(hash).toString('base64'), color };
}

/**
 * Finds the cell of similar colours that has most pixels together with the cells around it, and takes the mean of these
 * pixels. The cells around it count because noise may spread one colour over several cells.
 * @param rgba four bytes a pixel; a pixel counts by its alpha
 * @returns `#rrggbb`; undefined if all pixels are transparent
 */
function dominantColor(rgba: Uint8Array): string | undefined {
  const alphas = new Float64Array(ROW ** 3);
  /** Red, green and blue, each multiplied by alpha. */
  const sums = [0, 1, 2].map(() => new Float64Array(ROW ** 3));
  for (let at = 0; at < rgba.length; at += 4) {
    const color = [...rgba.subarray(at, at + 3)];
    const alpha = rgba[at + 3] ?? 0;
    const cell = color.reduce((index, value) => index * ROW + Math.floor(value / CELL) + 1, 0);
    add(alphas, cell, alpha);
    for (const [channel, sum] of sums.entries()) add(sum, cell, (color[channel] ?? 0) * alpha);
  }
  let most = 0;
  let winner = 0;
  for (const [cell, own] of alphas.entries()) {
    const around = own > 0 ? sumAround(alphas, cell) : 0;
    if (around > most) [most, winner] = [around, cell];
  }
  if (most === 0) return undefined;
  const mean = sums.map((sum) => Math.round(sumAround(sum, winner) / most));
  return `#${Buffer.from(mean).toString('hex')}`;
}

function add(cells: Float64Array, cell: number, value: number): void {
  cells[cell] = (cells[cell] ?? 0) + value;
}

function sumAround(cells: Float64Array, cell: number): number {
  return AROUND.reduce((sum, step) => sum + (cells[cell + step] ?? 0), 0);
}
