import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import type { ProcessingQueue } from '../../core/queue/queue.js';
import { countOpenUploads } from '../../core/uploads/queries.js';
import { countUsers } from '../accounts/users.js';
import { adminStats } from '../answers/stats.js';
import { type AnyRoute, route } from './route.js';
import { readStats } from './stats.js';

/** Counts of the whole installation. */
export function adminStatsRoute({
  database,
  queue,
}: {
  database: DataSource;
  queue: ProcessingQueue;
}): AnyRoute {
  return route({
    method: 'get',
    path: '/api/admin/stats',
    access: 'admin',
    limit: 'status',
    summary:
      'How many users, files, unfinished uploads and jobs there are, and what happened in the last day',
    answers: { 200: adminStats },
    async handle(): Promise<z.output<typeof adminStats>> {
      const [files, users, uploads, jobs] = await Promise.all([
        readStats(database, undefined),
        countUsers(database),
        countOpenUploads(database),
        // Everything else is known while the queue is away.
        queue.countByState().catch(() => null),
      ]);
      return { ...files, users, uploads, jobs };
    },
  });
}
