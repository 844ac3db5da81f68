import { z } from 'zod';
import { bytes, fault, id, pageOf, problem, timestamp } from './shapes.js';

export const fileStatus = z
  .enum(['pending', 'processing', 'completed', 'failed', 'infected', 'paused', 'canceled'])
  .meta({ id: 'FileStatus' });

export const progress = z.int().min(0).max(100).describe('Percent of the whole processing');

export const attempts = z.int().min(0).describe('Without attempts that were interrupted');

export const step = z.string().nullable().describe('The step that runs, or the last one that ran');

export const stepRecord = z.object({
  state: z.enum(['done', 'failed', 'skipped']),
  ms: z.number().min(0).describe('Milliseconds that the step took'),
  reason: z.string().optional(),
});

const links = z.object({
  content: z.string().nullable().describe('Null until the file may be shown'),
  thumbnails: z.record(z.string(), z.string()).nullable().describe('By size: small, medium, large'),
});

const derived = z.object({
  name: z.string(),
  contentType: z.string(),
  size: bytes,
  width: z.int().nullable().describe('Pixels; null for what is not a picture'),
  height: z.int().nullable(),
  link: z
    .string()
    .nullable()
    .describe('A signed address, which expires; null while the file may not be shown'),
});

const delivery = z.object({
  destination: z.string().describe('The name of the destination'),
  address: z.string().describe('`s3://bucket/key`, or the path within the folder of the destination'),
  at: timestamp,
});

export const file = z
  .object({
    id,
    filename: z.string(),
    size: bytes,
    declaredType: z.string().nullable().describe('Media type that the client declared'),
    detectedType: z.string().nullable().describe('Media type that was recognised from the bytes'),
    sha256: z.string().nullable().describe('Hex'),
    duplicateOf: id
      .nullable()
      .describe(
        'An older file of mine that had the same bytes, which are stored once; it may be deleted since',
      ),
    status: fileStatus,
    step,
    progress,
    attempts,
    steps: z.record(z.string(), stepRecord).describe('How each step ended, by its name'),
    metadata: z.record(z.string(), z.unknown()),
    settings: z
      .record(z.string(), z.unknown())
      .nullable()
      .describe('How its owner wants it to be processed; null: as others of its type'),
    warnings: z.array(fault).describe('Problems that do not make the file unusable'),
    error: fault.nullable(),
    createdAt: timestamp,
    completedAt: timestamp.nullable(),
    deletedAt: timestamp.nullable().describe('When it was put into the trash; null: it is not in the trash'),
    derived: z
      .array(derived)
      .describe('Previews and other things that steps have made from the file, apart from its thumbnails'),
    deliveries: z
      .array(delivery)
      .describe('Copies for other systems; Landfall neither changes nor deletes them later'),
    links: links.describe('Signed addresses, which expire; none while the file is in the trash'),
  })
  .meta({ id: 'File' });

export const filePage = pageOf(file);

export const timeline = pageOf(
  z.object({
    seq: z.int().nullable().describe('Its number in the log; null for a moment after it was written'),
    type: z.string().describe('Such as `file.completed`'),
    subjectId: id.nullable(),
    data: z.record(z.string(), z.unknown()),
    createdAt: timestamp,
  }),
);

/** One answer for each id of a batch, in the order of the ids. */
export const batchAnswers = z.object({
  items: z.array(
    z.object({
      id: z.string().describe('As it was sent'),
      status: z.int().describe('The status that the route for one file would answer'),
      file: file
        .optional()
        .describe('The file as it is now; absent if it was refused or is in the trash now'),
      problem: problem.optional().describe('Why this file was refused'),
    }),
  ),
});

/** A file for a sender who may not read files: without facts and links. */
export const guestFile = file.pick({
  id: true,
  filename: true,
  size: true,
  declaredType: true,
  status: true,
  createdAt: true,
});

export const sentFile = z.union([file, guestFile]).describe('A sender who may not read files learns less');

/** The JSON of a file, as clients read it. */
export type FileJson = z.input<typeof file>;

export type FilePageJson = z.input<typeof filePage>;
