import { z } from 'zod';
import { attempts, fileStatus, progress, step } from './files.js';
import { fault } from './shapes.js';

/** How far the processing of a file has come. */
export const processingStatus = z.object({
  status: fileStatus,
  step,
  progress,
  attempts,
  etaSeconds: z
    .int()
    .nullable()
    .describe('Seconds until the processing ends, by recent files of this type and size; null if unknown'),
  error: fault
    .extend({ message: z.string().describe('The problem in words for the owner of the file') })
    .nullable()
    .describe('Of the last attempt'),
});

/** How long a file will probably take. */
export const processingEstimate = z.object({
  etaSeconds: z
    .int()
    .nullable()
    .describe('Seconds from the last byte until the file is processed; null: no such files are known yet'),
  waitSeconds: z.int().describe('Seconds of these that the file waits for its turn'),
  basis: z
    .object({
      types: z.string().describe('`image/png`, or `image/*` if few files of the type are known, or `*/*`'),
      files: z.int().describe('How many'),
    })
    .nullable()
    .describe('The recent files that the estimate goes by'),
});

/** All settings of one image: each has a value. */
const completeSettings = z
  .object({
    quality: z.int(),
    maxWidth: z.int().nullable().describe('Pixels; null: no limit'),
    maxHeight: z.int().nullable(),
    fit: z.enum(['inside', 'cover', 'contain', 'fill', 'outside']),
    format: z.enum(['keep', 'jpeg', 'png', 'webp', 'avif']),
    metadata: z.enum(['strip', 'keep', 'strip-gps']),
    lossless: z.boolean(),
  })
  .meta({ id: 'CompleteSettings' });

export const settingsOfType = z.object({
  type: z.string(),
  asked: z.boolean().describe('Whether images of this type are optimised without being asked for (OPTIMIZE)'),
  defaults: completeSettings.nullable().describe('Null: files of this type cannot be optimised'),
  fields: z
    .record(z.string(), z.record(z.string(), z.unknown()))
    .describe('The allowed values of each setting, as JSON Schema'),
});

export const checkedSettings = z.object({
  valid: z.boolean(),
  settings: completeSettings.nullable().describe('Null: they are not valid'),
  problems: z.array(
    z.object({
      field: z.string().describe('Empty: the settings as a whole'),
      message: z.string().describe('Such as `must be true or false`'),
    }),
  ),
});

export type StatusJson = z.input<typeof processingStatus>;
