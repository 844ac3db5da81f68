import sharp, { type Metadata, type Sharp } from 'sharp';
import { AppError } from '../errors.js';
import type { ParserLimits } from './parser-protocol.js';
import type { TaskInput } from './tasks.js';

// One image at a time and one thread for it: there are as many parser processes as there are cores.
sharp.concurrency(1);
sharp.cache(false);

/** Opens an image for decoding. Nothing is decoded yet. */
export function openImage(bytes: Buffer, limits: ParserLimits): Sharp {
  return sharp(bytes, {
    limitInputPixels: limits.maxImagePixels,
    failOn: 'error',
    sequentialRead: true,
  });
}

/** Dimensions and tags, without decoding a pixel. @throws {AppError} too_many_pixels */
export async function readHeader(bytes: Buffer, { maxImagePixels }: ParserLimits): Promise<Metadata> {
  const header = await sharp(bytes, { limitInputPixels: false, failOn: 'error' }).metadata();
  if (header.width * header.height > maxImagePixels) {
    throw new AppError('too_many_pixels', {
      detail: `${header.width} × ${header.height} pixels; at most ${maxImagePixels} in all are decoded`,
    });
  }
  return header;
}

/** The error of a task that would need more of the object than its first bytes. */
export function tooLarge({ bytes, size }: TaskInput): AppError {
  const detail = `${size} bytes; at most ${bytes.length} are read into memory`;
  return new AppError('too_much_memory', { detail });
}

/** @throws {AppError} `unreadable` with the reason of the decoder, in one line */
export async function decoding<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('unreadable', { detail: explain(error), cause: error });
  }
}

function explain(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [, codec] = /has not been built in: (\w+)/.exec(message) ?? [];
  if (codec) return `Images compressed as ${codec} cannot be decoded here`;
  const lines = message.split('\n');
  // libheif looks for the end of a file by seeking behind it; that is no error.
  const line = lines.find((candidate) => !candidate.includes('bad seek')) ?? lines[0] ?? '';
  // Such as "VipsJpeg: premature end of JPEG image".
  return `The image cannot be decoded: ${line.replace(/^\w+: /, '')}`;
}
