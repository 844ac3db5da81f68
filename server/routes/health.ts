import type { DataSource } from 'typeorm';
import { within } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import type { Storage } from '../../core/storage/storage.js';
import type { Drain } from '../http/drain.js';
import { type AnyRoute, route } from './route.js';

interface HealthDeps {
  database: DataSource;
  storage: Storage;
  drain: Drain;
}

/** For load balancers and orchestrators. */
export function healthRoutes({ database, storage, drain }: HealthDeps): AnyRoute[] {
  let checking: Promise<void> | undefined;
  /** No limit stands before it: however many ask at once, database and storage are asked by one of them. */
  function checkOnce(): Promise<void> {
    checking ??= checkParts().finally(() => {
      checking = undefined;
    });
    return checking;
  }
  async function checkParts(): Promise<void> {
    await check('database', () => database.query('SELECT 1'));
    await check('storage', () => storage.check());
  }

  return [
    route({
      method: 'get',
      path: '/health/live',
      access: 'public',
      summary: 'Whether the process answers at all',
      handle: async () => ({ status: 'ok' }),
    }),
    route({
      method: 'get',
      path: '/health/ready',
      access: 'public',
      summary:
        'Whether requests should be sent here: database and storage work. `warnings` names what does not keep it from that',
      async handle() {
        if (drain.draining) throw new AppError('unavailable', { detail: 'Shutting down', retryable: true });
        await checkOnce();
        // A full disk refuses uploads; whoever reads or deletes is served, and no other server has another disk.
        const isShort = await storage.room?.isShort();
        return { status: 'ok', ...(isShort ? { warnings: ['storage_full'] } : {}) };
      },
    }),
  ];
}

/** So long a part may take to answer: one connection that hangs must not keep all later questions waiting. */
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
