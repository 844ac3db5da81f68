import type { DataSource } from 'typeorm';
import { within } from '../../core/concurrency.js';
import { queryRows } from '../../core/database/rows.js';
import type { ProcessingQueue } from '../../core/queue/queue.js';
import type { Scanner } from '../../core/scanning/scanner.js';
import { checkStorage } from '../../core/storage/check.js';
import type { Storage } from '../../core/storage/storage.js';

/* The services that this server depends on, and how it asks each whether it works. */

/** The longest time for an answer: one connection that hangs must not delay all later checks. */
const ANSWER_WITHIN_MS = 3000;

export interface Check {
  /** Its name in answers and metrics. */
  name: string;
  /** Whether the server cannot take requests without it. */
  needed: boolean;
  /** Rejects when the service cannot be used. */
  ask(): Promise<Finding>;
}

interface Finding {
  /** Null: it tells none. */
  version: string | null;
  /** What else is worth knowing; null: it tells none. */
  figures?: Record<string, number | null>;
}

export interface Inspected {
  name: string;
  needed: boolean;
  state: 'up' | 'down';
  latencyMs: number;
  version: string | null;
  figures: Record<string, number | null>;
}

/** All checks. A service that is not configured has none. */
export function createChecks({
  database,
  storage,
  queue,
  scanner,
}: {
  database: DataSource;
  storage: Storage;
  queue: ProcessingQueue;
  /** Undefined: files are scanned by a simulation. */
  scanner?: Pick<Scanner, 'version'> | undefined;
}): Check[] {
  const checks: Check[] = [
    {
      name: 'database',
      needed: true,
      async ask() {
        const [row] = await queryRows<{ version: string }>(
          database,
          `SELECT current_setting('server_version') AS version`,
        );
        return { version: row?.version ?? null };
      },
    },
    {
      name: 'storage',
      needed: true,
      async ask() {
        await checkStorage(storage);
        return { version: null };
      },
    },
    {
      name: 'queue',
      needed: false,
      async ask() {
        return { version: null, figures: { openJobs: await queue.countOpen() } };
      },
    },
  ];
  const { redisInfo } = queue;
  if (redisInfo) {
    checks.push({ name: 'redis', needed: false, ask: async () => readRedis(await redisInfo()) });
  }
  if (scanner) {
    checks.push({ name: 'clamav', needed: false, ask: async () => ({ version: await scanner.version() }) });
  }
  return checks;
}

/** @param info the answer to INFO: a line for each figure */
function readRedis(info: string): Finding {
  const fields = new Map(info.split(/\r?\n/).map((line) => line.split(':', 2) as [string, string]));
  const numberOf = (name: string) => Number(fields.get(name) ?? Number.NaN);
  const known = (value: number) => (Number.isFinite(value) ? value : null);
  const [hits, misses] = [numberOf('keyspace_hits'), numberOf('keyspace_misses')];
  return {
    version: fields.get('redis_version') ?? null,
    figures: {
      usedMemoryBytes: known(numberOf('used_memory')),
      // 0 means no limit.
      maxMemoryBytes: known(numberOf('maxmemory')) || null,
      hitRate: known(hits / (hits + misses)),
    },
  };
}

/** Asks all services at the same time. Never rejects; no answer in time counts as down. */
export function inspect(checks: readonly Check[]): Promise<Inspected[]> {
  return Promise.all(
    checks.map(async ({ name, needed, ask }) => {
      const began = performance.now();
      const found = await within(ANSWER_WITHIN_MS, ask(), name).catch(() => undefined);
      return {
        name,
        needed,
        state: found ? ('up' as const) : ('down' as const),
        latencyMs: Math.round(performance.now() - began),
        version: found?.version ?? null,
        figures: found?.figures ?? {},
      };
    }),
  );
}
