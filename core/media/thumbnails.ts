import sharp, { type Metadata, type SharpOptions } from 'sharp';
import { AppError } from '../errors.js';
import { decoding, fillWebp, readHeader, reasonOf } from './image.js';
import { type ParserLimits, type TaskInput, tooLarge } from './task-input.js';

/** Longest side in pixels. */
const SIZES = [
  { name: 'large', side: 1200 },
  { name: 'medium', side: 600 },
  { name: 'small', side: 200 },
] as const;

/** Longest side of the largest, in pixels. */
export const LARGEST = SIZES[0].side;

const QUALITY = 78;

/** libwebp's effort, 0 to 6: 2 takes a third of the default's time for some percent more bytes. */
const EFFORT = 2;

/** The reduced scales at which a JPEG can be decoded. Each uses a part of the coefficients of an 8 × 8 block. */
const JPEG_SCALES = [8, 4, 2];

const PART = 'Only a part of the image could be decoded';

/** The marker that a JPEG ends with. */
const END_OF_IMAGE = Buffer.from([0xff, 0xd9]);

export interface Thumbnail {
  name: string;
  bytes: Uint8Array;
  /** Pixels. */
  width: number;
  height: number;
}

export interface Thumbnails {
  thumbnails: Thumbnail[];
  /** Why they show only a part of the image. */
  damage?: string;
}

export interface Pixels {
  data: Uint8Array;
  info: { width: number; height: number; channels: 1 | 2 | 3 | 4 };
}

/**
 * Decodes an image once, at the largest size, and makes the smaller ones from that.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function makeThumbnails(input: TaskInput): Promise<Thumbnails> {
  if (input.bytes.length < input.size) throw tooLarge(input.size, input.bytes.length);
  const filled = fillWebp(input);
  const header = await decoding(readHeader(filled ?? input.bytes));
  checkSize(header, input.limits);
  const { pixels, damage } = filled
    ? { pixels: await decoding(readPixels(filled, 'none')), damage: `${PART}: bytes are missing at the end` }
    : await decode(input.bytes, header);
  return { thumbnails: await scaleDown(pixels), ...(damage ? { damage } : {}) };
}

/** Makes the thumbnails of all sizes. */
export async function scaleDown(pixels: Pixels): Promise<Thumbnail[]> {
  const thumbnails: Thumbnail[] = [];
  for (const { name, side } of SIZES) {
    const { data, info } = await sharp(pixels.data, { raw: pixels.info })
      .resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: QUALITY, effort: EFFORT })
      .toBuffer({ resolveWithObject: true });
    thumbnails.push({ name, bytes: data, width: info.width, height: info.height });
  }
  return thumbnails;
}

/**
 * A JPEG is decoded at a reduced scale, a few rows at a time. Only a progressive JPEG needs all its coefficients at once.
 * Other images are decoded at full size.
 */
function checkSize(
  { width, height, format, isProgressive, chromaSubsampling = '', channels }: Metadata,
  { maxImagePixels, memory }: ParserLimits,
): void {
  const isJpeg = format === 'jpeg';
  const scale =
    JPEG_SCALES.find((candidate) => isJpeg && Math.max(width, height) >= LARGEST * candidate) ?? 1;
  const pixels = (width * height) / scale ** 2;
  if (pixels > maxImagePixels) {
    throw new AppError('too_many_pixels', {
      detail: `${width} × ${height} pixels; at most ${maxImagePixels} in all are decoded`,
    });
  }
  // Two bytes for each coefficient; with 4:2:0 there are half as many for both colours as for the brightness.
  const coefficients = width * height * (chromaSubsampling.startsWith('4:2:0') ? 1.5 : channels);
  if (isJpeg && isProgressive && coefficients * 2 > memory) {
    throw new AppError('too_much_memory', {
      detail: `${width} × ${height} pixels, stored progressively, take ${coefficients * 2} bytes; at most ${memory} are used`,
    });
  }
}

/** Decodes the image as if it were complete; if that fails, decodes as much as possible. */
async function decode(bytes: Buffer, { format }: Metadata): Promise<{ pixels: Pixels; damage?: string }> {
  try {
    return { pixels: await readPixels(bytes, 'error') };
  } catch (error) {
    // Some programs omit the end marker. If nothing else is wrong, decoding with the marker gives no warning.
    const ended = format === 'jpeg' && Buffer.concat([bytes, END_OF_IMAGE]);
    const whole = ended && (await readPixels(ended, 'warning').catch(() => undefined));
    if (whole) return { pixels: whole };
    const part = await readPixels(bytes, 'none').catch(() => decoding(Promise.reject(error)));
    return { pixels: part, damage: `${PART}: ${reasonOf(error)}` };
  }
}

function readPixels(bytes: Buffer, failOn: SharpOptions['failOn'] & string): Promise<Pixels> {
  // The number of pixels has been checked.
  return sharp(bytes, { limitInputPixels: false, failOn, sequentialRead: true })
    .autoOrient()
    .resize({ width: LARGEST, height: LARGEST, fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
}
