import { z } from 'zod';
import { attempts, fileStatus, progress, step, stepRecord } from './files.js';
import { fault, id, pageOf, timestamp } from './shapes.js';

const count = z.int().min(0);

/** The processing of a file. Nothing in it tells what is in the file. */
export const job = z
  .object({
    id: z.string().describe('The id of the file, a hyphen, and the number of the run'),
    fileId: id,
    ownerId: id,
    run: z.int().min(1).describe('Raised by each retry'),
    status: fileStatus.describe(
      'Pending: it waits for a worker. Processing: it runs, or waits for its next attempt',
    ),
    step,
    progress,
    attempts,
    priority: z
      .int()
      .min(0)
      .describe('0: in the order of arrival, before all jobs with a priority; then 1, 2, 3'),
    steps: z.record(z.string(), stepRecord).describe('How each step ended, by its name'),
    error: fault.nullable().describe('Why the last attempt failed'),
    createdAt: timestamp.describe('When the upload ended'),
    startedAt: timestamp.nullable().describe('When a worker began this run, or the one before it'),
    updatedAt: timestamp,
    completedAt: timestamp.nullable(),
  })
  .meta({ id: 'Job' });

export const jobPage = pageOf(job);

export const oneJob = job.extend({
  queueState: z
    .enum(['missing', 'waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'])
    .nullable()
    .describe('Where the queue has the job. It forgets ended jobs. Null: the queue does not answer'),
});

export const failures = z.object({
  files: count.describe('Failed files in all'),
  items: z
    .array(
      z.object({
        step: z.string(),
        code: z.string(),
        files: count,
        oldestAt: timestamp.describe('When the first of them failed'),
        newestAt: timestamp,
      }),
    )
    .describe('By reason, the most frequent first'),
});

export const retried = z.object({
  retried: count.describe('Files whose new runs wait for a worker now'),
  remaining: count.describe('Files that match still'),
});

export const queueState = z
  .object({
    backend: z.enum(['postgresql', 'redis']),
    paused: z.boolean().describe('Workers take no jobs; those that run go on'),
    jobs: z
      .object({
        waiting: count,
        prioritized: count.describe('They wait too, after the others'),
        delayed: count.describe('They wait for the time of their next attempt'),
        active: count,
        completed: count.describe('Of the last minutes only'),
        failed: count.describe('Of the last hour only'),
      })
      .describe('Numbers of jobs by state'),
    oldestWaitingAt: timestamp
      .nullable()
      .describe('When the job was added that comes next; null: none could run now'),
    oldestWaitingSeconds: z.number().min(0).nullable().describe('How long ago that is'),
    workers: count.nullable().describe('Connected workers; null: the store of the queue does not tell'),
  })
  .meta({ id: 'QueueState' });
