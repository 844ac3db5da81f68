import sharp, { type Metadata } from 'sharp';
import { AppError } from '../errors.js';
import type { TaskInput } from './tasks.js';

// One image at a time and one thread for it: there are as many parser processes as there are cores.
sharp.concurrency(1);
sharp.cache(false);

// All that libvips could read besides (SVG, its own formats, raw data) is left out: less code for strangers to attack.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: ['Jpeg', 'Png', 'Webp', 'Nsgif', 'Tiff', 'Heif'].map((name) => `VipsForeignLoad${name}`),
});

/** Dimensions and tags, without decoding a pixel: they are told of any image, however large. */
export function readHeader(bytes: Buffer): Promise<Metadata> {
  return sharp(bytes, { limitInputPixels: false, failOn: 'none' }).metadata();
}

/**
 * libvips opens no WebP that is shorter than it says. With zeros instead of the missing bytes it decodes what is there.
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

/** The error of a task that would need more of the object than its first bytes. */
export function tooLarge({ bytes, size }: TaskInput): AppError {
  const detail = `${size} bytes; at most ${bytes.length} are read into memory`;
  return new AppError('too_much_memory', { detail });
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

/** What the decoder says, in one line. */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [, codec] = /has not been built in: (\w+)/.exec(message) ?? [];
  if (codec) return `it is compressed as ${codec}, which is not supported here`;
  const lines = message.split('\n');
  // libheif looks for the end of a file by seeking behind it; that is no error.
  const line = lines.find((candidate) => !candidate.includes('bad seek')) ?? lines[0] ?? '';
  // Such as "VipsJpeg: premature end of JPEG image".
  return line.replace(/^\w+: /, '');
}
