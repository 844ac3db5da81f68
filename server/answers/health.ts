import { z } from 'zod';
import { bytes } from './shapes.js';

export const live = z.object({ status: z.literal('ok') });

const warnings = z.array(z.enum(['storage_full', 'files_corrupted']));

export const ready = live.extend({ warnings: warnings.optional() });

const disk = z.object({ freeBytes: bytes, totalBytes: bytes }).nullable();

/** For admins: nothing in it is secret, but it tells much about the machine. */
export const detailed = z
  .object({
    status: z
      .enum(['ok', 'degraded', 'not_ready'])
      .describe('degraded: a dependency is down without which requests still work'),
    warnings,
    version: z.string(),
    node: z.string(),
    uptimeSeconds: z.int().min(0),
    dependencies: z.array(
      z.object({
        name: z.string(),
        needed: z.boolean().describe('Whether the server cannot take requests without it'),
        state: z.enum(['up', 'down']),
        latencyMs: z.int().min(0),
        version: z.string().nullable(),
        figures: z.record(z.string(), z.number().nullable()).describe('Of Redis: memory and hit rate'),
      }),
    ),
    processes: z
      .object({ servers: z.int().min(0), workers: z.int().min(0) })
      .nullable()
      .describe('How many are connected to the database'),
    disk: z.object({ data: disk, spool: disk }).describe('Null where there is no such folder'),
    memory: z.object({
      rssBytes: bytes,
      heapUsedBytes: bytes,
      heapTotalBytes: bytes,
      externalBytes: bytes,
      limitBytes: bytes.nullable().describe('Of the container; null if there is none'),
    }),
    libraries: z
      .object({
        sharp: z.string(),
        libvips: z.string(),
        ffmpeg: z
          .string()
          .nullable()
          .describe('On the PATH of this server; null: not there. Each worker looks on its own PATH'),
      })
      .nullable(),
  })
  .meta({ id: 'Health' });
