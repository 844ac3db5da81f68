import sharp, { type Sharp } from 'sharp';
import { toDecodable } from './decodable.js';
import { checkSize, decoding, readHeader, scaleFor } from './image.js';
import { fitInto, type Rendered, type Rendering, type RenderingFormat } from './rendering.js';
import { type TaskInput, tooLarge } from './task-input.js';

/** libwebp's effort, 0 to 6, and libaom's, 0 to 9: somebody waits for the image. */
const WEBP_EFFORT = 2;
const AVIF_EFFORT = 1;

/** Behind transparent parts in formats without transparency. */
const BACKGROUND = '#ffffff';

/**
 * Renders an image: upright, in sRGB, without its tags, never enlarged, of an animation the first picture. Of a damaged image it
 * shows the part that can be decoded.
 * @throws {AppError} unreadable, too_many_pixels, too_much_memory
 */
export async function renderImage(input: TaskInput, rendering: Rendering): Promise<Rendered> {
  if (input.bytes.length < input.size) throw tooLarge(input.size, input.bytes.length);
  const { bytes } = await decoding(toDecodable(input));
  const header = await decoding(readHeader(bytes));
  const { width, height, shrink } = fitInto(header.autoOrient, rendering);
  checkSize(header, input.limits, scaleFor(header, shrink));
  const format = toFormat(rendering.format, header.hasAlpha);
  // The number of pixels has been checked.
  const image = sharp(bytes, { limitInputPixels: false, failOn: 'none', sequentialRead: true })
    .autoOrient()
    .resize({ width, height, fit: rendering.fit, withoutEnlargement: true })
    .toColourspace('srgb');
  const { data, info } = await decoding(
    encode(image, format, rendering.quality).toBuffer({ resolveWithObject: true }),
  );
  return { bytes: data, contentType: `image/${format}`, width: info.width, height: info.height };
}

function toFormat(format: RenderingFormat, hasAlpha: boolean): Exclude<RenderingFormat, 'plain'> {
  if (format !== 'plain') return format;
  return hasAlpha ? 'png' : 'jpeg';
}

function encode(image: Sharp, format: Exclude<RenderingFormat, 'plain'>, quality: number): Sharp {
  switch (format) {
    case 'avif':
      return image.avif({ quality, effort: AVIF_EFFORT });
    case 'webp':
      return image.webp({ quality, effort: WEBP_EFFORT });
    case 'jpeg':
      return image.flatten({ background: BACKGROUND }).jpeg({ quality });
    case 'png':
      return image.png();
  }
}
