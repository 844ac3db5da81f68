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

export type StatusJson = z.input<typeof processingStatus>;
