import { z } from 'zod';
import type { File } from '../../core/database/entities/file.js';
import { listFailures, retryFailed } from '../../core/files/dead-letters.js';
import { getJob, type JobDeps, type JobKey, listJobs, removeJob, retryJob } from '../../core/files/jobs.js';
import { endedSteps } from '../../core/files/steps.js';
import { jobId } from '../../core/queue/job.js';
import { fileStatus } from '../answers/files.js';
import { failures, job, jobPage, oneJob, retried } from '../answers/jobs.js';
import { EMPTY } from './answers.js';
import { idCursor, pageLimit, time } from './fields.js';
import { attemptsOf } from './file-json.js';
import { type AnyRoute, pageOf, route, signedInActor } from './route.js';

/** `<fileId>-<run>`. */
const byJobId = z.object({
  id: z
    .string()
    .regex(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}-[1-9]\d{0,8}$/)
    .transform((text): JobKey => ({ fileId: text.slice(0, 36), run: Number(text.slice(37)) })),
});

/** The name of a step, or the code of a problem. */
const reason = z.string().regex(/^[\w-]{1,64}$/, 'must be the name of a step, or the code of a problem');

/** The processing of all files, for admins. */
export function jobRoutes(deps: JobDeps): AnyRoute[] {
  const { database } = deps;
  return [
    route({
      method: 'get',
      path: '/api/admin/jobs',
      access: 'admin',
      limit: 'status',
      summary: 'The jobs of all files, newest file first',
      query: z.strictObject({
        status: fileStatus.optional().describe('Jobs of files in this state'),
        step: reason.optional().describe('Jobs whose last attempt failed in this step'),
        code: reason.optional().describe('Jobs whose last attempt failed with this code'),
        cursor: idCursor,
        limit: pageLimit,
      }),
      answers: { 200: jobPage, 304: EMPTY },
      async handle({ query: { cursor, limit, ...filter } }) {
        const found = await listJobs(database, { ...filter, after: cursor, limit: limit + 1 });
        const { items, nextCursor } = pageOf(found, limit, ({ id }) => id);
        return { items: items.map(toJson), nextCursor };
      },
    }),
    route({
      method: 'get',
      path: '/api/admin/jobs/failures',
      access: 'admin',
      limit: 'status',
      summary: 'How many files failed for which reason',
      answers: { 200: failures },
      async handle() {
        const groups = await listFailures(database);
        return { files: groups.reduce((sum, group) => sum + group.files, 0), items: groups };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/jobs/retry',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary:
        'Process failed files further, at most 1,000 by one request; `remaining` says how many are left',
      body: z.strictObject({
        step: reason.optional().describe('Only files that failed in this step'),
        code: reason.optional().describe('Only files that failed with this code'),
        failedBefore: time
          .optional()
          .describe('Only files that failed before; by default now. Repeat it to go on with the same files'),
      }),
      answers: { 200: retried },
      async handle(call) {
        const { failedBefore = new Date(), ...filter } = call.body;
        return retryFailed(deps, { ...filter, failedBefore }, signedInActor(call));
      },
    }),
    route({
      method: 'get',
      path: '/api/admin/jobs/:id',
      access: 'admin',
      limit: 'status',
      summary: 'One job, and where the queue has it',
      params: byJobId,
      answers: { 200: oneJob },
      async handle({ params }) {
        const file = await getJob(database, params.id);
        const queueState = await deps.queue.controls.look(jobId(params.id)).catch(() => null);
        return { ...toJson(file), queueState };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/jobs/:id/retry',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary:
        'Process a failed or canceled file further, as a new job; steps that are done are not repeated',
      params: byJobId,
      answers: { 200: job },
      problems: ['wrong_state'],
      async handle(call) {
        return toJson(await retryJob(deps, call.params.id, signedInActor(call)));
      },
    }),
    route({
      method: 'delete',
      path: '/api/admin/jobs/:id',
      access: 'admin',
      limit: 'processing',
      summary: 'Remove a job that does not run; a file that waits for its processing becomes canceled',
      params: byJobId,
      answers: { 204: EMPTY },
      problems: ['wrong_state'],
      async handle(call) {
        await removeJob(deps, call.params.id, signedInActor(call));
      },
    }),
  ];
}

function toJson(file: File): z.output<typeof job> {
  return {
    id: jobId({ fileId: file.id, run: file.run }),
    fileId: file.id,
    ownerId: file.ownerId,
    run: file.run,
    status: file.status,
    step: file.step,
    progress: file.progress,
    attempts: attemptsOf(file),
    priority: file.priority,
    steps: endedSteps(file),
    error: file.error,
    createdAt: file.createdAt,
    startedAt: file.processingSince,
    updatedAt: file.updatedAt,
    completedAt: file.completedAt,
  };
}
