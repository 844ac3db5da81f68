import sharp from 'sharp';
import { decoding, openImage, readHeader, tooLarge } from './image.js';
import type { TaskInput } from './tasks.js';

/** Longest side in pixels. */
const SIZES = [
  { name: 'large', side: 1200 },
  { name: 'medium', side: 600 },
  { name: 'small', side: 200 },
] as const;

const QUALITY = 78;

/** libwebp's effort, 0 to 6: 2 takes a third of the default's time for some percent more bytes. */
const EFFORT = 2;

export interface Thumbnail {
  name: string;
  bytes: Uint8Array;
  /** Pixels. */
  width: number;
  height: number;
}

/**
 * Decodes an image once, at the largest size (JPEGs are scaled while decoding), and makes the smaller ones from that.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function makeThumbnails(input: TaskInput): Promise<Thumbnail[]> {
  if (input.bytes.length < input.size) throw tooLarge(input);
  return decoding(make(input));
}

async function make({ bytes, limits }: TaskInput): Promise<Thumbnail[]> {
  await readHeader(bytes, limits);
  const [largest] = SIZES;
  const base = await openImage(bytes, limits)
    .autoOrient()
    .resize({ width: largest.side, height: largest.side, fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  const raw = { width: base.info.width, height: base.info.height, channels: base.info.channels };
  const thumbnails: Thumbnail[] = [];
  for (const { name, side } of SIZES) {
    const made = await sharp(base.data, { raw })
      .resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: QUALITY, effort: EFFORT })
      .toBuffer({ resolveWithObject: true });
    thumbnails.push({ name, bytes: made.data, width: made.info.width, height: made.info.height });
  }
  return thumbnails;
}
