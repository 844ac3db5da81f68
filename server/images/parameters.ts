import Negotiator from 'negotiator';
import { z } from 'zod';
import { FITS, type Rendering, type RenderingFormat } from '../../core/media/rendering.js';

/* The parameters by which a client asks for a form of an image, and the rendering that they mean. */

const FORMATS = ['auto', 'avif', 'webp', 'jpeg', 'png'] as const;

/** The largest side that a client may name; the answer is never larger than the largest of IMAGE_SIZES. */
const LARGEST_SIDE = 65_535;

const MOST_DENSITY = 4;

const side = z.number().int().min(1).max(LARGEST_SIDE);
const quality = z.number().int().min(1).max(100);
const density = z.number().min(1).max(MOST_DENSITY);
const fit = z.enum(FITS, `must be one of ${FITS.join(', ')}`);
const format = z.enum(FORMATS, `must be one of ${FORMATS.join(', ')}`);

/** The parameters in JSON. */
export const imageBody = z.strictObject({
  w: side.optional(),
  h: side.optional(),
  fit: fit.optional(),
  format: format.optional(),
  quality: quality.optional(),
  dpr: density.optional(),
});

const whole = (schema: z.ZodType<number, number>, rule: string) =>
  z
    .string()
    .regex(/^\d{1,5}$/, `must be ${rule}`)
    .transform(Number)
    .pipe(schema)
    .optional();

/** The parameters in a query. */
export const imageQuery = z.strictObject({
  w: whole(side, 'a number of pixels').describe('Width of the box in pixels of the page'),
  h: whole(side, 'a number of pixels').describe('Height of the box in pixels of the page'),
  fit: fit
    .default('inside')
    .describe(
      '`inside`: the whole image; `cover`: its middle, in the shape of the box, which needs `w` and `h`',
    ),
  format: format
    .default('auto')
    .describe('`auto`: AVIF or WebP if Accept names them, else PNG with transparency and JPEG without'),
  quality: whole(quality, 'a number from 1 to 100').describe('Means nothing for PNG'),
  dpr: z
    .string()
    .regex(/^\d(\.\d{1,3})?$/, `must be a number from 1 to ${MOST_DENSITY}, such as 1.5`)
    .transform(Number)
    .pipe(density)
    .default(1)
    .describe('Pixels of the screen for a pixel of the page'),
  token: z.string().optional(),
});

type ImageQuery = z.output<typeof imageQuery>;

/** What eyes take for about the same quality; for JPEG the usual one. */
const QUALITY: Record<RenderingFormat, number> = { avif: 50, webp: 80, jpeg: 80, plain: 80, png: 0 };

/** The qualities that may be had without a signature. */
const QUALITIES = [30, 50, 65, 80, 90];

/**
 * The rendering that a client asks for.
 * @param accept the Accept header
 * @param sizes in ascending order
 * @param exact whether the client may choose every size up to the largest, and every quality; else both are rounded up
 */
export function toRendering(
  query: ImageQuery,
  accept: string | undefined,
  sizes: readonly number[],
  exact: boolean,
): Rendering {
  const chosen = query.format === 'auto' ? chooseFormat(accept) : query.format;
  const largest = sizes.at(-1) ?? 0;
  const toSide = (pixels: number | undefined) => {
    const wanted = pixels === undefined ? largest : Math.min(largest, Math.round(pixels * query.dpr));
    return exact ? wanted : roundUp(wanted, sizes);
  };
  const wanted = query.quality ?? QUALITY[chosen];
  return {
    width: toSide(query.w),
    height: toSide(query.h),
    // A box without one of its sides has no shape.
    fit: query.w === undefined || query.h === undefined ? 'inside' : query.fit,
    format: chosen,
    quality: chosen === 'png' ? 0 : exact ? wanted : roundUp(wanted, QUALITIES),
  };
}

/** Programs that can show AVIF or WebP name them; all programs send wildcards. */
function chooseFormat(accept: string | undefined): RenderingFormat {
  const types = new Negotiator({ headers: { accept: accept ?? '' } }).mediaTypes();
  if (types.includes('image/avif')) return 'avif';
  return types.includes('image/webp') ? 'webp' : 'plain';
}

function roundUp(wanted: number, steps: readonly number[]): number {
  return steps.find((step) => step >= wanted) ?? steps.at(-1) ?? wanted;
}
