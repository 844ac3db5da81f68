import sharp, { type Metadata } from 'sharp';
import { AppError } from '../errors.js';
import type { ParserLimits } from './task-input.js';

// Use one thread per image: there are as many parser processes as cores.
sharp.concurrency(1);
sharp.cache(false);

// Block all other loaders of libvips (SVG, its own formats, raw data), so that less code can be attacked.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: ['Jpeg', 'Png', 'Webp', 'Nsgif', 'Tiff', 'Heif'].map((name) => `VipsForeignLoad${name}`),
});

/** Reads dimensions and tags without decoding pixels, so it works for an image of any size. */
export function readHeader(bytes: Buffer): Promise<Metadata> {
  return sharp(bytes, { limitInputPixels: false, failOn: 'none' }).metadata();
}

/** The reduced scales at which a JPEG can be decoded. Each uses a part of the coefficients of an 8 × 8 block. */
const JPEG_SCALES = [8, 4, 2];

/**
 * Checks whether an image can be decoded within the limits. A JPEG is decoded a few rows at a time; only a progressive one needs
 * all its coefficients at once.
 * @param scale at which it is decoded: 2 is half of each side
 * @param frames how many of the animation are decoded
 * @throws {AppError} too_many_pixels, too_much_memory
 */
export function checkSize(
  { width, height, format, isProgressive, chromaSubsampling = '', channels }: Metadata,
  { maxImagePixels, memory }: ParserLimits,
  scale: number,
  frames = 1,
): void {
  if ((width * height * frames) / scale ** 2 > maxImagePixels) {
    const times = frames > 1 ? ` in ${frames} frames` : '';
    throw new AppError('too_many_pixels', {
      detail: `${width} × ${height} pixels${times}; at most ${maxImagePixels} in all are decoded`,
    });
  }
  // Two bytes for each coefficient; with 4:2:0 there are half as many for both colours as for the brightness.
  const coefficients = width * height * (chromaSubsampling.startsWith('4:2:0') ? 1.5 : channels);
  if (format === 'jpeg' && isProgressive && coefficients * 2 > memory) {
    throw new AppError('too_much_memory', {
      detail: `${width} × ${height} pixels, stored progressively, take ${coefficients * 2} bytes; at most ${memory} are used`,
    });
  }
}

/**
 * The scale at which an image is decoded: other images than JPEG at full size.
 * @param shrink how many pixels of the image become one in each direction
 */
export function scaleFor({ format }: Pick<Metadata, 'format'>, shrink: number): number {
  return format === 'jpeg' ? (JPEG_SCALES.find((scale) => shrink >= scale) ?? 1) : 1;
}

/** The marker that a JPEG ends with. */
const END_OF_IMAGE = Buffer.from([0xff, 0xd9]);

/** A JPEG with its end marker, which some programs omit. */
export function withEnd(jpeg: Buffer): Buffer {
  return Buffer.concat([jpeg, END_OF_IMAGE]);
}

/** @throws {AppError} the work's own; otherwise `unreadable` with the reason of the decoder */
export async function decoding<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('unreadable', {
      detail: `The image cannot be decoded: ${reasonOf(error)}`,
      cause: error,
    });
  }
}

/** The decoder's message, in one line. */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [, codec] = /has not been built in: (\w+)/.exec(message) ?? [];
  if (codec) return `it is compressed as ${codec}, which is not supported here`;
  const lines = message.split('\n');
  // libheif finds the end of a file by seeking past it; this is no error.
  const line = lines.find((candidate) => !candidate.includes('bad seek')) ?? lines[0] ?? '';
  // Such as "VipsJpeg: premature end of JPEG image", and "UnableToReadImageData `' @ error/jxl.c/ReadJXLImage/825".
  return line.replace(/^\w+: /, '').replace(/\s*`[^`]*' @ .*$/, '');
}
