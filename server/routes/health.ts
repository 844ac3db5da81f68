import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import { within } from '../../core/concurrency.js';
import { execute } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { checkStorage } from '../../core/storage/check.js';
import type { Storage } from '../../core/storage/storage.js';
import { live, ready } from '../answers/health.js';
import type { Drain } from '../http/drain.js';
import { type AnyRoute, route } from './route.js';

interface HealthDeps {
  database: DataSource;
  storage: Storage;
  drain: Drain;
}

/** Health checks for load balancers and orchestrators. */
export function healthRoutes({ database, storage, drain }: HealthDeps): AnyRoute[] {
  let checking: Promise<void> | undefined;
  /** These routes have no rate limit, so parallel requests share one check of database and storage. */
  function checkOnce(): Promise<void> {
    checking ??= checkParts().finally(() => {
      checking = undefined;
    });
    return checking;
  }
  async function checkParts(): Promise<void> {
    await check('database', () => execute(database, 'SELECT 1'));
    await check('storage', () => checkStorage(storage));
  }

  return [
    route({
      method: 'get',
      path: '/health/live',
      access: 'public',
      summary: 'Tell whether the process answers at all',
      answers: { 200: live },
      handle: async () => ({ status: 'ok' }) as const,
    }),
    route({
      method: 'get',
      path: '/health/ready',
      access: 'public',
      summary:
        'Tell whether this server can take requests: database and storage work; `warnings` lists minor problems',
      answers: { 200: ready },
      async handle(): Promise<z.output<typeof ready>> {
        if (drain.draining) throw new AppError('unavailable', { detail: 'Shutting down', retryable: true });
        await checkOnce();
        // A full disk only refuses uploads. Reading and deleting work, and other servers use the same disk.
        const isShort = await storage.room?.isShort();
        return { status: 'ok', ...(isShort ? { warnings: ['storage_full'] } : {}) };
      },
    }),
  ];
}

/** The longest time for an answer: one connection that hangs must not delay all later checks. */
const ANSWER_WITHIN_MS = 3000;

async function check(part: string, works: () => Promise<unknown>): Promise<void> {
  try {
    await within(ANSWER_WITHIN_MS, works(), part);
  } catch (error) {
    throw new AppError('unavailable', {
      detail: `The ${part} does not answer`,
      cause: error,
      retryable: true,
    });
  }
}
