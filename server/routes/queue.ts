import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { ProcessingQueue } from '../../core/queue/queue.js';
import { queueState } from '../answers/jobs.js';
import { type AnyRoute, route, signedInActor } from './route.js';

interface QueueDeps {
  database: DataSource;
  queue: ProcessingQueue;
  /** Undefined: the queue is kept in PostgreSQL. */
  redisUrl: string | undefined;
}

const CHANGES = {
  pause: 'Let no worker take jobs, also after restarts; jobs that run go on, and uploads are accepted',
  resume: 'Let workers take jobs again',
};

/** The queue as a whole, for admins. */
export function queueRoutes({ database, queue, redisUrl }: QueueDeps): AnyRoute[] {
  async function stateNow(): Promise<z.output<typeof queueState>> {
    const [paused, jobs, oldest, workers] = await Promise.all([
      queue.controls.isPaused(),
      queue.countByState(),
      queue.waitingSince(),
      queue.controls.countWorkers(),
    ]);
    return {
      backend: redisUrl ? 'redis' : 'postgresql',
      paused,
      jobs,
      oldestWaitingAt: oldest ?? null,
      oldestWaitingSeconds: oldest ? Math.max(0, Date.now() - oldest.getTime()) / 1000 : null,
      workers,
    };
  }

  return [
    route({
      method: 'get',
      path: '/api/admin/queue',
      access: 'admin',
      limit: 'status',
      summary: 'The state of the queue',
      answers: { 200: queueState },
      handle: stateNow,
    }),
    ...(['pause', 'resume'] as const).map((change) =>
      route({
        method: 'post',
        path: `/api/admin/queue/${change}`,
        access: 'admin',
        keyed: true,
        limit: 'processing',
        summary: CHANGES[change],
        answers: { 200: queueState },
        async handle(call) {
          if (!queue.reachable) {
            throw new AppError('unavailable', { detail: 'The queue does not answer', retryable: true });
          }
          // Before the change, whatever its result: a crash must not leave a change that nobody has made.
          const about = { subjectId: null, ownerId: null, actor: signedInActor(call) };
          await appendEvents(database.manager, [
            change === 'pause' ? { type: 'queue.paused', ...about } : { type: 'queue.resumed', ...about },
          ]);
          await queue.controls[change]();
          return stateNow();
        },
      }),
    ),
  ];
}
