import sharp, { type Metadata } from 'sharp';
import { AppError } from '../errors.js';

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
