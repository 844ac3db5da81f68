import sharp, { type Metadata, type OutputInfo, type Sharp, type SharpOptions } from 'sharp';
import { AppError } from '../errors.js';
import { checkSize, decoding, readHeader, scaleFor, withEnd } from './image.js';
import { type CompleteSettings, type ImageFormat, LONGEST_SIDE, resultFormat } from './image-settings.js';
import { erasePlace, withoutPlace } from './place.js';
import { type TaskInput, tooLarge } from './task-input.js';

/*
 * Optimises an image: fewer pixels, another encoding, less beside the pixels.
 *
 * The result is always upright, so it needs no orientation. Its colours are those of sRGB, unless it keeps its metadata and
 * with them the profile of an RGB image. libvips converts CMYK and 16 bits; what has no alpha gets a white ground.
 */

export interface Optimized {
  /** Null: the original is to be used, for this reason. */
  bytes: Uint8Array | null;
  reason?: string;
  format: string;
  /** Pixels; of one frame. */
  width: number;
  height: number;
  /** How long decoding and encoding took. */
  durationMs: number;
}

/** The formats that hold animations. */
const ANIMATED: readonly string[] = ['gif', 'webp'];

/** Effort of the AV1 encoder, 0 to 9: 4, the default, takes ten times as long as 2 for a twentieth less. */
const AVIF_EFFORT = 2;

/** Level of zlib, 0 to 9: with filters, 9 takes three times as long as 7 for nothing. */
const PNG_LEVEL = 7;

const WHITE = '#ffffff';
const NOTHING = { r: 255, g: 255, b: 255, alpha: 0 };

/**
 * Makes the optimised form of an image.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function optimizeImage(input: TaskInput, settings: CompleteSettings): Promise<Optimized> {
  const { bytes, size, limits } = input;
  if (bytes.length < size) throw tooLarge(size, bytes.length);
  const began = performance.now();
  const header = await decoding(readHeader(bytes));
  const format = resultFormat(`image/${nameOf(header)}`, settings.format);
  const { width, height } = header.autoOrient;
  const original = (reason: string): Optimized => {
    const durationMs = Math.round(performance.now() - began);
    return { bytes: null, reason, format: nameOf(header), width, height, durationMs };
  };
  const reason = whyOriginal(header, settings, format);
  if (reason) return original(reason);
  checkSize(header, limits, scaleOf(header, settings), isAnimated(header) ? header.pages : 1);
  checkSides({ width, height }, settings, format);
  const { data, info } = await encode(bytes, header, settings, format);
  if (settings.format === 'keep' && data.length >= size) {
    return original(`the result has ${data.length} bytes, the original ${size}`);
  }
  if (settings.metadata === 'strip-gps') await erasePlace(data);
  return {
    bytes: data,
    format,
    width: info.width,
    height: info.pageHeight ?? info.height,
    durationMs: Math.round(performance.now() - began),
  };
}

/** The format by the name that media types have for it. */
function nameOf({ format }: Metadata): string {
  return format === 'heif' ? 'avif' : format;
}

function isAnimated({ pages = 1, format }: Metadata): boolean {
  return pages > 1 && ANIMATED.includes(format);
}

/** The scale at which libvips decodes a JPEG that becomes smaller. */
function scaleOf(header: Metadata, { maxWidth, maxHeight, fit }: CompleteSettings): number {
  if (fit !== 'inside') return 1;
  const { width, height } = header.autoOrient;
  return scaleFor(header, Math.max(width / (maxWidth ?? width), height / (maxHeight ?? height)));
}

function whyOriginal(
  header: Metadata,
  { lossless }: CompleteSettings,
  format: ImageFormat,
): string | undefined {
  const { pages = 1 } = header;
  if (lossless && format === 'jpeg') return 'a JPEG cannot be encoded without loss';
  if (isAnimated(header) && !ANIMATED.includes(format)) {
    return `the image is animated, and ${format} holds no animation`;
  }
  if (pages > 1 && format === 'tiff') return `the image has ${pages} pages`;
  return undefined;
}

/** @throws {AppError} too_many_pixels when the format does not hold sides of this length */
function checkSides(
  size: { width: number; height: number },
  settings: CompleteSettings,
  format: ImageFormat,
): void {
  const { maxWidth, maxHeight } = settings;
  const isLimited = maxWidth !== null || maxHeight !== null;
  if (isLimited || !['webp', 'avif'].includes(format) || Math.max(size.width, size.height) <= LONGEST_SIDE)
    return;
  throw new AppError('too_many_pixels', {
    detail: `${size.width} × ${size.height} pixels; ${format} holds sides of at most ${LONGEST_SIDE}: set maxWidth and maxHeight`,
  });
}

type Encoded = { data: Buffer; info: OutputInfo };

/** Decodes and encodes. An image that is damaged or cut off has no optimised form. */
async function encode(
  bytes: Buffer,
  header: Metadata,
  settings: CompleteSettings,
  format: ImageFormat,
): Promise<Encoded> {
  const attempt = (content: Buffer, failOn: SharpOptions['failOn'] & string) =>
    write(open(content, failOn, header, settings, format), header, settings, format).toBuffer({
      resolveWithObject: true,
    });
  try {
    return await attempt(bytes, 'error');
  } catch (error) {
    const ended =
      header.format === 'jpeg' && (await attempt(withEnd(bytes), 'warning').catch(() => undefined));
    return ended || decoding(Promise.reject(error));
  }
}

/** The pixels and what is kept beside them. */
function open(
  bytes: Buffer,
  failOn: SharpOptions['failOn'] & string,
  header: Metadata,
  settings: CompleteSettings,
  format: ImageFormat,
): Sharp {
  const { maxWidth, maxHeight, fit } = settings;
  const animated = isAnimated(header);
  // The number of pixels has been checked.
  let image = sharp(bytes, { limitInputPixels: false, failOn, animated });
  // Frames of an animation cannot be turned.
  if (!animated) image = image.autoOrient();
  if (maxWidth !== null || maxHeight !== null) {
    image = image.resize({
      width: maxWidth ?? undefined,
      height: maxHeight ?? undefined,
      fit,
      withoutEnlargement: true,
      background: format === 'jpeg' ? WHITE : NOTHING,
    });
  }
  return keepBeside(chooseColours(image, header, settings, format), header, settings, format);
}

/** Whether the image is grey, and the format holds grey images. */
function staysGrey({ space }: Metadata, format: ImageFormat): boolean {
  return (space === 'b-w' || space === 'grey16') && ['jpeg', 'png', 'tiff'].includes(format);
}

/** A PNG that is to lose nothing keeps its 16 bits. */
function chooseColours(
  image: Sharp,
  header: Metadata,
  { lossless }: CompleteSettings,
  format: ImageFormat,
): Sharp {
  const isDeep = header.depth === 'ushort' && format === 'png' && lossless;
  if (staysGrey(header, format)) return image.toColourspace(isDeep ? 'grey16' : 'b-w');
  return isDeep ? image.toColourspace('rgb16') : image;
}

/** Keeps metadata, as far as the settings say. Without its profile the image is converted into sRGB. */
function keepBeside(
  image: Sharp,
  header: Metadata,
  { metadata }: CompleteSettings,
  format: ImageFormat,
): Sharp {
  const { space, depth, hasProfile, xmp } = header;
  let kept = image;
  if (metadata === 'keep') kept = kept.keepMetadata();
  if (metadata === 'strip-gps') {
    kept = kept.keepExif();
    const packet = xmp && withoutPlace(xmp);
    if (packet) kept = kept.withXmp(packet);
  }
  if (!hasProfile || staysGrey(header, format)) return kept;
  if (metadata !== 'strip' && (space === 'srgb' || space === 'rgb16')) return kept.keepIccProfile();
  // By default sharp takes 16 bits for sRGB without a conversion, and keepMetadata() keeps a profile that does not fit any more.
  return depth === 'ushort' || metadata === 'keep' ? kept.withIccProfile('srgb', { attach: false }) : kept;
}

/** Encodes into the format. */
function write(
  image: Sharp,
  header: Metadata,
  { quality, lossless, maxWidth, maxHeight }: CompleteSettings,
  format: ImageFormat,
): Sharp {
  switch (format) {
    case 'jpeg':
      return image.flatten({ background: WHITE }).jpeg({ quality, mozjpeg: true });
    case 'png': {
      const isLossy = quality < 100 && !lossless;
      // Fewer pixels may have more colours than a palette holds.
      const isIndexed = header.isPalette && maxWidth === null && maxHeight === null;
      if (isLossy || isIndexed) {
        return image.png({
          palette: true,
          quality: isLossy ? quality : 100,
          dither: isLossy ? 1 : 0,
          compressionLevel: 9,
        });
      }
      return image.png({ compressionLevel: PNG_LEVEL, adaptiveFiltering: true });
    }
    case 'webp':
      return image.webp({ quality, lossless });
    case 'avif':
      return image.avif({ quality, lossless, effort: AVIF_EFFORT });
    case 'gif':
      return image.gif({ reuse: true });
    case 'tiff':
      return image.tiff({ compression: 'deflate', predictor: 'horizontal' });
  }
}
