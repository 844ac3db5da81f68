import type { DataSource } from 'typeorm';
import { type Config, requireConnected } from './config.js';
import type { TimeLimits } from './database/client.js';
import { openDatabase } from './database/data-source.js';
import { type Listener, openListener } from './database/listen.js';
import { migrate } from './database/migrate.js';
import { onNumbered, startSequencer } from './events/sequence.js';
import { claimStorage } from './files/claim.js';
import { type Estimates, openEstimates } from './files/estimates.js';
import type { Logger } from './log.js';
import { openLogLevel } from './log-level.js';
import { observeProcess } from './metrics/gauges.js';
import type { Metrics } from './metrics/metrics.js';
import { migrateQueue, openQueue, type ProcessingQueue } from './queue/queue.js';
import { openStorage } from './storage/open.js';
import type { Storage } from './storage/storage.js';
import type { Tracer } from './tracing/tracer.js';
import { type Leases, openLeases } from './uploads/lease.js';

/** The services that server and worker need alike. */
export interface Services {
  database: DataSource;
  storage: Storage;
  listener: Listener;
  leases: Leases;
  queue: ProcessingQueue;
  estimates: Estimates;
  /** Undefined: no traces are made. */
  tracer: Tracer | undefined;
  metrics: Metrics;
  /** Call it after everything that uses the services has ended. */
  close(): Promise<void>;
}

type Part = 'server' | 'worker';

/** The name of the one connection of each process that is always open; health checks count the processes by it. */
export function listenerName(part: Part): string {
  return `landfall ${part} listening`;
}

/**
 * Migrates the database and opens the services.
 * @param options.part names the process in pg_stat_activity
 * @param options.holder the name under which it takes leases; no other living process has it
 * @throws {ConfigError} when the configuration does not lead to a database, or to a storage of this installation
 */
export async function openServices(
  config: Readonly<Config>,
  log: Logger,
  options: { part: Part; limits: TimeLimits; holder: string; metrics: Metrics },
): Promise<Services> {
  const { metrics } = options;
  const { databaseUrl } = requireConnected(config);
  // First: without a handler the signal would end the process.
  const level = openLogLevel(log);
  await migrate(databaseUrl, [migrateQueue]);
  const database = await openDatabase(databaseUrl, `landfall ${options.part}`, {
    poolSize: config.databasePoolSize,
    limits: options.limits,
    onError: (error) => log.warn({ err: error }, 'database connection'),
  });
  const sequencer = startSequencer(database, log);
  onNumbered(database, metrics.eventsNumbered);
  const storage = await openStorage(config, log, metrics);
  observeProcess(metrics, { database, storage });
  await claimStorage({ database, storage });
  const listener = await openListener(databaseUrl, log, listenerName(options.part));
  await level.follow(database, listener);
  const leases = await openLeases({ database, listener, log }, options.holder);
  const queue = openQueue({
    databaseUrl,
    redisUrl: config.redisUrl,
    attempts: config.jobAttempts,
    backoffMs: config.jobBackoffMs,
    log,
  });
  const { otlpEndpoint } = config;
  const tracer =
    otlpEndpoint &&
    // Loaded only where it is used.
    (await import('./tracing/open.js')).openTracing({ endpoint: otlpEndpoint, part: options.part, log });
  return {
    database,
    storage,
    listener,
    leases,
    queue,
    estimates: openEstimates(database, log, config.optimize),
    metrics,
    tracer: tracer || undefined,
    async close() {
      const sent = tracer ? tracer.close() : undefined;
      level.close();
      leases.close();
      await listener.close();
      await queue.close();
      await sequencer.stop();
      await database.destroy();
      await sent;
    },
  };
}
