import sharp, { type Metadata } from 'sharp';
import { AppError } from '../errors.js';
import type { ParserLimits, TaskInput } from './task-input.js';

// Use one thread per image: there are as many parser processes as cores.
sharp.concurrency(1);
sharp.cache(false);

// Block all other loaders of libvips (SVG, its own formats, raw data), so that less code can be attacked.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: ['Jpeg', 'Png', 'Webp', 'Nsgif', 'Tiff', 'Heif'].map((name) => `VipsForeignLoad${name}`),
});

/** The reduced scales at which a JPEG can be decoded. Each uses a part of the coefficients of an 8 × 8 block. */
const JPEG_SCALES = [8, 4, 2];

/** Reads dimensions and tags without decoding pixels, so it works for an image of any size. */
export function readHeader(bytes: Buffer): Promise<Metadata> {
  return sharp(bytes, { limitInputPixels: false, failOn: 'none' }).metadata();
}

/**
 * libvips refuses a WebP that is shorter than its header says. With zeros for the missing bytes it decodes the rest.
 * @returns undefined unless this is such an image
 */
export function fillWebp({ bytes, limits }: TaskInput): Buffer | undefined {
  if (bytes.length < 16 || bytes.toString('latin1', 0, 4) + bytes.toString('latin1', 8, 12) !== 'RIFFWEBP') {
    return undefined;
  }
  const missing = bytes.readUInt32LE(4) + 8 - bytes.length;
  const isHeld = bytes.length + missing <= limits.memory / 2;
  return missing > 0 && isHeld ? Buffer.concat([bytes, Buffer.alloc(missing)]) : undefined;
}

/**
 * Checks that decoding an image stays within the limits. A JPEG is decoded at a reduced scale, a few rows at a time; only a
 * progressive JPEG needs all its coefficients at once. Other images are decoded at full size.
 * @param shrink how many pixels of the image become one in each direction
 * @throws {AppError} too_many_pixels, too_much_memory
 */
export function checkSize(
  { width, height, format, isProgressive, chromaSubsampling = '', channels }: Metadata,
  shrink: number,
  { maxImagePixels, memory }: ParserLimits,
): void {
  const isJpeg = format === 'jpeg';
  const scale = JPEG_SCALES.find((candidate) => isJpeg && shrink >= candidate) ?? 1;
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

/** @throws {AppError} `unreadable` with the reason of the decoder */
export async function decoding<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
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
  // Such as "VipsJpeg: premature end of JPEG image".
  return line.replace(/^\w+: /, '');
}
