import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import { within } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import { hasCorrupted } from '../../core/files/scrub.js';
import { type LibraryVersions, readLibraryVersions } from '../../core/media/library-versions.js';
import type { Storage } from '../../core/storage/storage.js';
import { readVersion } from '../../core/version.js';
import { detailed, live, ready } from '../answers/health.js';
import { type Check, type Inspected, inspect } from '../health/checks.js';
import { countProcesses, readDisks, readMemory } from '../health/machine.js';
import type { Drain } from '../http/drain.js';
import { type AnyRoute, route } from './route.js';

interface HealthDeps {
  database: DataSource;
  storage: Storage;
  drain: Drain;
  checks: readonly Check[];
  dataDir: string;
}

/** As for one dependency; see checks.ts. */
const ANSWER_WITHIN_MS = 3000;

/** Health checks for load balancers and orchestrators, and one for people. */
export function healthRoutes(deps: HealthDeps): AnyRoute[] {
  const { storage, drain } = deps;
  let checking: Promise<Inspected[]> | undefined;
  /** These routes have no rate limit, so parallel requests share one check of database and storage. */
  function checkOnce(): Promise<Inspected[]> {
    checking ??= inspect(deps.checks.filter((check) => check.needed)).finally(() => {
      checking = undefined;
    });
    return checking;
  }
  async function isReady(): Promise<z.output<typeof ready>> {
    if (drain.draining) throw new AppError('unavailable', { detail: 'Shutting down', retryable: true });
    const down = (await checkOnce()).find(({ state }) => state === 'down');
    if (down) {
      throw new AppError('unavailable', { detail: `The ${down.name} does not answer`, retryable: true });
    }
    // A full disk only refuses uploads. Reading and deleting work, and other servers use the same disk.
    const isShort = await storage.room?.isShort();
    return { status: 'ok', ...(isShort ? { warnings: ['storage_full'] } : {}) };
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
      handle: isReady,
    }),
    route({
      method: 'get',
      path: '/health',
      access: 'public',
      summary: 'The same as /health/ready',
      answers: { 200: ready },
      handle: isReady,
    }),
    detailedRoute(deps),
  ];
}

function detailedRoute({ database, storage, drain, checks, dataDir }: HealthDeps): AnyRoute {
  let libraries: Promise<LibraryVersions | null> | undefined;
  return route({
    method: 'get',
    path: '/health/detailed',
    access: 'admin',
    limit: 'status',
    summary: 'Tell how this server and each of its dependencies are; 503 when it is not ready',
    answers: { 200: detailed, 503: detailed },
    async handle({ res }): Promise<z.output<typeof detailed>> {
      libraries ??= readLibraryVersions().catch(() => {
        // Perhaps the machine was only busy: the next request asks again.
        libraries = undefined;
        return null;
      });
      const orNull = <T>(work: Promise<T>) => within(ANSWER_WITHIN_MS, work, 'health').catch(() => null);
      const [dependencies, isShort, corrupted, processes, disk, versions] = await Promise.all([
        inspect(checks),
        orNull(Promise.resolve(storage.room?.isShort())),
        orNull(hasCorrupted(database)),
        orNull(countProcesses(database)),
        orNull(readDisks(dataDir)),
        orNull(libraries),
      ]);
      const status = drain.draining ? 'not_ready' : statusOf(dependencies);
      if (status === 'not_ready') res.status(503);
      return {
        status,
        warnings: [
          ...(isShort ? (['storage_full'] as const) : []),
          ...(corrupted ? (['files_corrupted'] as const) : []),
        ],
        version: readVersion(),
        node: process.versions.node,
        uptimeSeconds: Math.floor(process.uptime()),
        dependencies,
        processes,
        disk: disk ?? { data: null, spool: null },
        memory: readMemory(),
        libraries: versions,
      };
    },
  });
}

function statusOf(dependencies: Inspected[]): 'ok' | 'degraded' | 'not_ready' {
  const down = dependencies.filter(({ state }) => state === 'down');
  if (down.length === 0) return 'ok';
  return down.some(({ needed }) => needed) ? 'not_ready' : 'degraded';
}
