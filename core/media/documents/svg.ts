import sharp from 'sharp';
import { AppError } from '../../errors.js';
import { decoding } from '../image.js';
import { type TaskInput, tooLarge } from '../task-input.js';
import { LARGEST, scaleDown } from '../thumbnails.js';
import type { Description } from './description.js';

/*
 * Draws an SVG by librsvg (https://gnome.pages.gitlab.gnome.org/librsvg/). It gets bytes without an address, so it resolves no
 * reference to anything outside of them: no image, no style sheet, no entity. It limits the elements that references
 * multiply and the size of entities; the time and the memory of this process limit the rest.
 */

/** The loader of libvips, which image.ts blocks. */
const LOADER = { operation: ['VipsForeignLoadSvg'] };

/** An SVG that cannot be drawn is text all the same. */
export async function drawSvg(input: TaskInput): Promise<Pick<Description, 'thumbnails' | 'warnings'>> {
  const { bytes, size } = input;
  if (bytes.length < size) {
    const { code, message } = tooLarge(size, bytes.length);
    return { thumbnails: [], warnings: [{ code, detail: message }] };
  }
  sharp.unblock(LOADER);
  try {
    // The picture is drawn at this size from the beginning, however large it says that it is.
    const drawing = sharp(bytes, { limitInputPixels: false })
      .resize({ width: LARGEST, height: LARGEST, fit: 'inside' })
      .toColourspace('srgb')
      .raw();
    const pixels = await decoding(drawing.toBuffer({ resolveWithObject: true }));
    return { thumbnails: await scaleDown(pixels), warnings: [] };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { thumbnails: [], warnings: [{ code: error.code, detail: error.message }] };
  } finally {
    sharp.block(LOADER);
  }
}
