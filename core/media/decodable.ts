import { isRawType, readCameraRaw } from './camera-raw.js';
import { detectType } from './detect.js';
import { isBitmapIcon, readIcon } from './icon.js';
import { type Coder, convertToTiff } from './imagemagick.js';
import { fillMissing } from './missing-bytes.js';
import { heldBytes, type ParserLimits, type TaskInput } from './task-input.js';
import { HEAD } from './types.js';

/** A picture in a format that libvips decodes, upright or with its orientation. */
export interface Decodable {
  bytes: Buffer;
  /** Why it is only a part of the picture. */
  damage?: string;
}

/** The words for a picture of which only a part was decoded. */
export const PART = 'Only a part of the image could be decoded';

/** Formats that libvips does not decode here, and the decoders for them. */
const CODERS = new Map<string, Coder>(
  Object.entries({
    'image/bmp': 'BMP',
    'image/heic': 'HEIC',
    'image/heic-sequence': 'HEIC',
    'image/heif': 'HEIC',
    'image/heif-sequence': 'HEIC',
    'image/j2c': 'J2K',
    'image/jp2': 'JP2',
    'image/jpx': 'JP2',
    'image/jxl': 'JXL',
    'image/vnd.adobe.photoshop': 'PSD',
  }),
);

export const coderFor = (mime: string): Coder | undefined => CODERS.get(mime);

export const ICON = 'image/x-icon';

/** The type of a picture that a task works on. */
export async function typeOf({ bytes, size }: TaskInput): Promise<{ mime: string; ext: string }> {
  const detected = await detectType({ bytes: bytes.subarray(0, HEAD), size });
  return detected ?? { mime: '', ext: '' };
}

/**
 * Turns a picture into one that libvips decodes: the preview of a raw file, the largest picture of an icon, the pixels of
 * a HEIC. A picture that libvips decodes stays as it is. If bytes are missing at its end, zeros take their place.
 * @throws {AppError} too_many_pixels, too_much_memory; an Error with the decoder's message
 */
export async function toDecodable(input: TaskInput): Promise<Decodable> {
  const { mime } = await typeOf(input);
  const filled = fillMissing(input.bytes, mime, heldBytes(input.limits));
  const bytes = await convert(filled ?? input.bytes, mime, input.limits);
  return { bytes, ...(filled ? { damage: `${PART}: bytes are missing at the end` } : {}) };
}

async function convert(bytes: Buffer, mime: string, limits: ParserLimits): Promise<Buffer> {
  if (isRawType(mime)) return readCameraRaw(bytes).preview ?? bytes;
  if (mime === ICON) {
    const icon = readIcon(bytes);
    if (!icon) throw new Error('it holds no picture');
    return isBitmapIcon(icon) ? convertToTiff(icon.largest, 'ICO', limits) : icon.largest;
  }
  const coder = coderFor(mime);
  return coder ? convertToTiff(bytes, coder, limits) : bytes;
}
