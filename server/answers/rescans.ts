import { z } from 'zod';
import { bytes, id, pageOf, timestamp } from './shapes.js';

const count = z.int().min(0);

export const rescan = z
  .object({
    id,
    fileId: id.nullable().describe('The only file; null: all files that the filter lets pass'),
    outdated: z.boolean().describe('Only files that were scanned with other signatures than those of today'),
    version: z
      .string()
      .nullable()
      .describe('Only files that were scanned with a version that begins with this'),
    scannedBefore: z.string().nullable().describe('Only files whose last scan was before'),
    signatures: z.string().nullable().describe('The new signatures that caused it; null: an admin did'),
    state: z.enum(['running', 'done', 'canceled']),
    reachedAt: timestamp
      .nullable()
      .describe('The files come in the order of their uploads: the upload of the last file ended then'),
    scanned: count.describe('Files'),
    infected: count.describe('Of these, files that turned out infected'),
    failed: count.describe('Files that could not be read or scanned'),
    bytes,
    createdAt: timestamp,
    endedAt: timestamp.nullable(),
  })
  .meta({ id: 'Rescan' });

export const rescanPage = pageOf(rescan);
