import { z } from 'zod';
import { fileStatus } from './files.js';
import { bytes, timestamp } from './shapes.js';

/** Files and bytes. */
const amount = z.object({ files: z.int().min(0), bytes });

const seconds = z.number().min(0).nullable().describe('Null if no processing ended');

/** Counts of one's own files. `bytes` are those of the files as they were sent. */
export const stats = z
  .object({
    ...amount.shape,
    byStatus: z.record(fileStatus, amount).describe('All but the files in the trash'),
    trash: amount,
    savedBytes: bytes.describe(
      'Bytes that need not be stored because files, in the trash or not, have the same content as older ones',
    ),
    lastDay: z
      .object({
        since: timestamp.describe('The full hour at which these figures begin, 24 to 25 hours ago'),
        created: amount,
        completed: amount,
        failed: amount,
        infected: amount,
        throughput: z
          .object({ filesPerHour: z.number().min(0), bytesPerHour: z.number().min(0) })
          .describe('Of the files that were completed'),
        processingSeconds: z
          .object({ average: seconds, p95: seconds })
          .describe('From the start of the processing to its end; p95 is right to a twentieth'),
      })
      .describe('What happened in the last day, also to files that are in the trash or gone'),
  })
  .meta({ id: 'Stats' });

const count = z.int().min(0);

/** Counts of the whole installation, for admins. */
export const adminStats = stats
  .extend({
    users: z.object({ total: count, admins: count, disabled: count }),
    uploads: z.object({
      open: count.describe('Neither finished nor ended'),
      receivedBytes: bytes.describe('Of these uploads'),
    }),
    jobs: z
      .object({
        waiting: count,
        prioritized: count,
        delayed: count,
        active: count,
        completed: count,
        failed: count,
      })
      .nullable()
      .describe('By state; of ended jobs only the last are kept. Null if the queue does not answer'),
  })
  .meta({ id: 'AdminStats' });

export const typeStats = z.object({
  items: z.array(
    amount.extend({
      type: z.string().nullable().describe('Detected, or else declared; null if neither is known'),
    }),
  ),
  nextCursor: z.null(),
  others: amount.extend({ types: z.int().min(0) }).describe('All types that are not among the items'),
});
