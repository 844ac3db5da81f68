import { z } from 'zod';
import { AppError } from '../errors.js';

/*
 * How an image is to be optimised. The API, the metadata of uploads, the variable OPTIMIZE and the worker share this schema.
 * An upload has settings of its own, or none; OPTIMIZE has settings for types. An image is optimised if either asks for it.
 * A field that neither names has a default, which depends on the type of the image.
 */

const FITS = ['inside', 'cover', 'contain', 'fill', 'outside'] as const;
const FORMATS = ['keep', 'jpeg', 'png', 'webp', 'avif'] as const;
const METADATA = ['strip', 'keep', 'strip-gps'] as const;

/** In pixels: the longest side of a WebP. */
export const LONGEST_SIDE = 16_383;

/** Which values each setting takes. The texts are also the messages about other values. */
const ALLOWED = {
  quality: 'must be a whole number from 1 to 100',
  maxWidth: `must be a whole number from 1 to ${LONGEST_SIDE}, or null for no limit`,
  maxHeight: `must be a whole number from 1 to ${LONGEST_SIDE}, or null for no limit`,
  fit: `must be one of ${FITS.join(', ')}`,
  format: `must be one of ${FORMATS.join(', ')}`,
  metadata: `must be one of ${METADATA.join(', ')}`,
  lossless: 'must be true or false',
};

const NAMES = Object.keys(ALLOWED).join(', ');

/** A name in a form that is safe to show. */
const printable = (name: string) => (/^[\w.-]{1,40}$/.test(name) ? name : '(an odd name)');

const whole = (message: string, max: number) => z.int(message).min(1, message).max(max, message);

export const imageSettings = z
  .strictObject(
    {
      quality: whole(ALLOWED.quality, 100).optional().describe('For PNG, less than 100 means a palette'),
      maxWidth: whole(ALLOWED.maxWidth, LONGEST_SIDE).nullable().optional().describe('Pixels'),
      maxHeight: whole(ALLOWED.maxHeight, LONGEST_SIDE).nullable().optional().describe('Pixels'),
      fit: z.enum(FITS, ALLOWED.fit).optional().describe('Other than inside: needs both limits'),
      format: z.enum(FORMATS, ALLOWED.format).optional().describe('keep: that of the original'),
      metadata: z
        .enum(METADATA, ALLOWED.metadata)
        .optional()
        .describe('EXIF, XMP and what else is beside the pixels'),
      lossless: z.boolean(ALLOWED.lossless).optional().describe('Without loss of the encoder; not for jpeg'),
    },
    {
      error: (issue) =>
        issue.code === 'unrecognized_keys'
          ? `has ${issue.keys.map(printable).join(', ')}, but there are only ${NAMES}`
          : 'must be an object',
    },
  )
  .superRefine((settings, context) => {
    const { fit, maxWidth, maxHeight, format, lossless } = settings;
    if (fit && fit !== 'inside' && !(maxWidth && maxHeight)) {
      const message = `can be ${fit} only with maxWidth and maxHeight; inside needs neither`;
      context.addIssue({ code: 'custom', path: ['fit'], message });
    }
    if (lossless && format === 'jpeg') {
      const message = 'can be true only with the format keep, png, webp or avif';
      context.addIssue({ code: 'custom', path: ['lossless'], message });
    }
  })
  .meta({ id: 'ImageSettings' });

/** Settings as they are given: each may be absent. */
export type ImageSettings = z.infer<typeof imageSettings>;

/** All settings of one image. */
export interface CompleteSettings {
  /** 1 to 100. */
  quality: number;
  /** Pixels; null: no limit. */
  maxWidth: number | null;
  maxHeight: number | null;
  fit: (typeof FITS)[number];
  format: (typeof FORMATS)[number];
  metadata: (typeof METADATA)[number];
  lossless: boolean;
}

/** What is wrong with a setting. */
export interface SettingsProblem {
  /** The name of the setting; empty if the settings are no object. */
  field: string;
  /** Such as `must be true or false`. */
  message: string;
}

/** What is wrong with each field of a value that is to be settings; empty: nothing. */
export function problemsOfSettings(value: unknown): SettingsProblem[] {
  const issues = imageSettings.safeParse(value).error?.issues ?? [];
  const problems = issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys'
      ? issue.keys.map((key) => ({ field: printable(key), message: `is no setting; there are ${NAMES}` }))
      : { field: issue.path.join('.'), message: issue.message },
  );
  // A number may break two rules of its field.
  return problems.filter(({ field }, index) => problems.findIndex((one) => one.field === field) === index);
}

/**
 * Reads settings that stand as JSON in metadata, a query or a form.
 * @returns null for `null`, which asks for nothing
 * @throws {AppError} invalid_request, naming the fields and the allowed values
 */
export function parseSettings(json: string): ImageSettings | null {
  const value = parseJson(json);
  if (value === null) return null;
  const problems = problemsOfSettings(value).map(({ field, message }) => `${field} ${message}`.trim());
  if (problems.length > 0) throw invalid(`settings: ${problems.join('; ')}`);
  return value as ImageSettings;
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw invalid('settings must be JSON, such as {"quality":80,"maxWidth":2048}');
  }
}

/** The format of each type that can be optimised. libvips reads and writes all of them; animated PNGs would stand still. */
const FORMAT_OF: Readonly<Record<string, keyof typeof QUALITY>> = {
  'image/jpeg': 'jpeg',
  'image/png': 'png',
  'image/webp': 'webp',
  'image/avif': 'avif',
  'image/gif': 'gif',
  'image/tiff': 'tiff',
};

/** The quality by the format of the result, if none is given. PNG, GIF and TIFF lose nothing. */
const QUALITY = { jpeg: 80, png: 100, webp: 80, avif: 60, gif: 100, tiff: 100 };

/** A format in which an image can be written. */
export type ImageFormat = keyof typeof QUALITY;

/** @param type media type that was recognised from the bytes */
export function canBeOptimized(type: string): boolean {
  return Object.hasOwn(FORMAT_OF, type);
}

/** The format that the result will have. @param type as canBeOptimized() */
export function resultFormat(type: string, format: CompleteSettings['format']): ImageFormat {
  return format === 'keep' ? (FORMAT_OF[type] ?? 'jpeg') : format;
}

/**
 * Completes settings. Of two that give the same setting, the later one counts.
 * @param type of the image, as canBeOptimized()
 */
export function completeSettings(type: string, ...given: (ImageSettings | null)[]): CompleteSettings {
  const settings: ImageSettings = Object.assign({}, ...given);
  const { format = 'keep', maxWidth = null, maxHeight = null, metadata = 'strip' } = settings;
  return {
    quality: settings.quality ?? QUALITY[resultFormat(type, format)],
    maxWidth,
    maxHeight,
    // Later settings may have removed a limit that the fit of earlier ones needs.
    fit: maxWidth && maxHeight ? (settings.fit ?? 'inside') : 'inside',
    format,
    metadata,
    lossless: (settings.lossless ?? false) && format !== 'jpeg',
  };
}

/** The fields of the settings, with their allowed values, as JSON Schema. */
export function describeSettings(): Record<string, Record<string, unknown>> {
  const fields = Object.entries(imageSettings.shape).map(([name, field]) => {
    const { $schema: _, ...schema } = z.toJSONSchema(field, { io: 'input' });
    return [name, schema];
  });
  return Object.fromEntries(fields);
}

function invalid(detail: string): AppError {
  return new AppError('invalid_request', { detail });
}
