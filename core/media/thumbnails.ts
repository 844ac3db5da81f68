import sharp, { type Metadata, type SharpOptions } from 'sharp';
import { checkSize, decoding, fillWebp, readHeader, reasonOf } from './image.js';
import { makePlaceholder, type Pixels, type Placeholder } from './placeholder.js';
import { type TaskInput, tooLarge } from './task-input.js';

/** Longest side in pixels. */
const SIZES = [
  { name: 'large', side: 1200 },
  { name: 'medium', side: 600 },
  { name: 'small', side: 200 },
] as const;

const LARGEST = SIZES[0].side;

const QUALITY = 78;

/** libwebp's effort, 0 to 6: 2 takes a third of the default's time for some percent more bytes. */
const EFFORT = 2;

const PART = 'Only a part of the image could be decoded';

/** The marker that a JPEG ends with. */
const END_OF_IMAGE = Buffer.from([0xff, 0xd9]);

interface Thumbnail {
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

/**
 * Decodes an image once, at the largest size, and makes the smaller ones and the placeholder from that.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function makeThumbnails(input: TaskInput): Promise<Thumbnails> {
  if (input.bytes.length < input.size) throw tooLarge(input.size, input.bytes.length);
  const filled = fillWebp(input);
  const header = await decoding(readHeader(filled ?? input.bytes));
  checkSize(header, Math.max(header.width, header.height) / LARGEST, input.limits);
  const { pixels, damage } = filled
    ? { pixels: await decoding(readPixels(filled, 'none')), damage: `${PART}: bytes are missing at the end` }
    : await decode(input.bytes, header);
  const thumbnails: Thumbnail[] = [];
  for (const { name, side } of SIZES) {
    const { data, info } = await sharp(pixels.data, { raw: pixels.info })
      .resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true })
      .webp({ quality: QUALITY, effort: EFFORT })
      .toBuffer({ resolveWithObject: true });
    thumbnails.push({ name, bytes: data, width: info.width, height: info.height });
  }
  const placeholder = await makePlaceholder(pixels);
  return { thumbnails, ...(placeholder ? { placeholder } : {}), ...(damage ? { damage } : {}) };
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
