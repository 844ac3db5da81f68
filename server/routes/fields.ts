import { z } from 'zod';
import { imageSettings } from '../../core/media/image-settings.js';

/*
 * Schemas that more than one route uses.
 */

/** The path of one resource. */
export const byId = z.object({ id: z.uuid() });

/** ISO 8601 with a time zone. */
export const time = z.iso
  .datetime({ offset: true, error: 'must be a time such as 2027-01-31T12:00:00Z' })
  .transform((text) => new Date(text));

export const futureTime = time.refine((time) => time > new Date(), 'must be in the future');

/** A name that a user gives to something. */
export const label = z
  .string()
  .trim()
  .min(1, 'must not be empty')
  .max(100, 'must have at most 100 characters')
  .regex(/^\P{C}*$/u, 'must not hold control characters');

/** The rules for a new password. */
export const password = z
  .string()
  .min(8, 'must have at least 8 characters')
  .max(200, 'must have at most 200 characters');

/** A number of bytes or other things, in a query. */
export const wholeNumber = z
  .string()
  .regex(/^\d{1,15}$/, 'must be a whole number, at least 0')
  .transform(Number);

/** The number of items on a page of a list. */
export const pageLimit = z.coerce.number().int().min(1).max(200).default(50);

/** The id of the last item of the previous page. */
export const idCursor = z.uuid('must be the nextCursor of a page before').optional();

/** Priorities in the queue. New uploads have none, and come before all jobs that have one. */
export const PRIORITIES = { high: 1, normal: 2, low: 3 } as const;

export const priority = z.enum(['high', 'normal', 'low'], 'must be high, normal or low');

/** How files are to be processed again. */
export const processing = {
  priority: priority.default('normal'),
  settings: imageSettings
    .nullable()
    .optional()
    .describe('How images are optimised; null: as others of their type; absent: as before'),
};
