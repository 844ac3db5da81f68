import sharp, { type Metadata, type SharpOptions } from 'sharp';
import { AppError } from '../errors.js';
import { PART, toDecodable } from './decodable.js';
import { findLargestJpeg } from './embedded-jpeg.js';
import { checkSize, decoding, readHeader, reasonOf, scaleFor, withEnd } from './image.js';
import { makePlaceholder, type Pixels, type Placeholder } from './placeholder.js';
import { type TaskInput, tooLarge } from './task-input.js';

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

export interface Thumbnail {
  name: string;
  bytes: Uint8Array;
  /** Pixels. */
  width: number;
  height: number;
}

export interface Thumbnails {
  thumbnails: Thumbnail[];
  /** Absent if all of the image is transparent. */
  placeholder?: Placeholder;
  /** Why they show only a part of the image. */
  damage?: string;
}

interface Decoded {
  pixels: Pixels;
  /** Why it is only a part of the image. */
  damage?: string;
}

/**
 * Decodes an image once, at the largest size, and makes the smaller ones and the placeholder from that.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function makeThumbnails(input: TaskInput): Promise<Thumbnails> {
  if (input.bytes.length < input.size) throw tooLarge(input.size, input.bytes.length);
  const { pixels, damage } = await decodePicture(input).catch((error: unknown) =>
    decodePreview(input, error),
  );
  const thumbnails = await scaleDown(pixels);
  const placeholder = await makePlaceholder(pixels);
  return { thumbnails, ...(placeholder ? { placeholder } : {}), ...(damage ? { damage } : {}) };
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

/** @throws {AppError} unreadable, too_many_pixels, too_much_memory */
async function decodePicture(input: TaskInput): Promise<Decoded> {
  const { bytes, damage } = await decoding(toDecodable(input));
  const header = await decoding(readHeader(bytes));
  checkSize(header, input.limits, scaleOf(header));
  if (damage) return { pixels: await decoding(readPixels(bytes, 'none')), damage };
  return decode(bytes, header);
}

/**
 * Programs and cameras put a small JPEG into many pictures. It is all that is left of one that cannot be decoded.
 * @throws the error if there is none, or if the picture is not broken but too large
 */
async function decodePreview({ bytes, limits }: TaskInput, error: unknown): Promise<Decoded> {
  const preview = error instanceof AppError && error.code === 'unreadable' && findLargestJpeg(bytes, 1);
  if (!preview) throw error;
  const read = async () => {
    const header = await readHeader(preview.bytes);
    checkSize(header, limits, scaleOf(header));
    return readPixels(preview.bytes, 'none');
  };
  const pixels = await read().catch(() => Promise.reject(error));
  return { pixels, damage: `Only the preview in the image could be decoded. ${error.detail}` };
}

function scaleOf(header: Metadata): number {
  return scaleFor(header, Math.max(header.width, header.height) / LARGEST);
}

/** Decodes the image as if it were complete; if that fails, decodes as much as possible. */
async function decode(bytes: Buffer, { format }: Metadata): Promise<Decoded> {
  try {
    return { pixels: await readPixels(bytes, 'error') };
  } catch (error) {
    // Some programs omit the end marker. If nothing else is wrong, decoding with the marker gives no warning.
    const ended = format === 'jpeg' && withEnd(bytes);
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
