import type { DataSource } from 'typeorm';
import { queryRows } from '../database/rows.js';
import { readScrub } from '../files/scrub.js';
import type { ProcessingQueue } from '../queue/queue.js';
import type { Storage } from '../storage/storage.js';
import { readVersion } from '../version.js';
import type { Metrics } from './metrics.js';

/* The gauges that are read at each scrape: of this process, and of the whole installation. */

/** Rows that a scrape counts at most: a number that has reached this one means "too many" anyway. */
const MAX_COUNT = 100_000;

/** Adds what this process uses: connections, memory and spool of uploads. */
export function observeProcess(
  metrics: Metrics,
  { database, storage }: { database: DataSource; storage: Storage },
): void {
  metrics.observe(
    {
      landfall_database_connections: {
        help: 'Connections of the pool to PostgreSQL by state; waiting counts the callers that wait for one',
        label: 'state',
      },
    },
    () => {
      const { totalCount, idleCount, waitingCount } = poolOf(database);
      const byState = { busy: totalCount - idleCount, idle: idleCount, waiting: waitingCount };
      return { landfall_database_connections: byState };
    },
  );
  metrics.observe(
    { landfall_info: { help: 'The version of this process; always 1', label: 'version' } },
    () => ({ landfall_info: { [readVersion()]: 1 } }),
  );
  const { usage } = storage;
  metrics.observe(
    {
      landfall_upload_buffer_bytes: {
        help: 'Bytes of uploads on their way to the storage, by the place where they wait',
        label: 'place',
      },
    },
    () => ({ landfall_upload_buffer_bytes: { ...usage() } }),
  );
}

function poolOf({ driver }: DataSource): { totalCount: number; idleCount: number; waitingCount: number } {
  return (driver as unknown as { master: { totalCount: number; idleCount: number; waitingCount: number } })
    .master;
}

/** Adds the state of the installation, which each server reports: its backlogs. */
export function observeInstallation(
  metrics: Metrics,
  { database, queue }: { database: DataSource; queue: ProcessingQueue },
): void {
  observeScrub(metrics, database);
  metrics.observe(
    {
      landfall_queue_jobs: { help: 'Jobs of the queue by state', label: 'state' },
      landfall_queue_oldest_job_seconds: { help: 'Age of the job that has waited longest; 0: none waits' },
    },
    async () => {
      const [jobs, since] = await Promise.all([queue.countByState(), queue.waitingSince()]);
      return {
        landfall_queue_jobs: { ...jobs },
        landfall_queue_oldest_job_seconds: since ? Math.max(0, Date.now() - since.getTime()) / 1000 : 0,
      };
    },
  );
  metrics.observe(
    {
      landfall_events_unnumbered: { help: `Events that have no number yet, up to ${MAX_COUNT}` },
      landfall_events_unnumbered_oldest_seconds: { help: 'Age of the oldest of them' },
      landfall_deliveries_pending: {
        help: `Events that are still to be delivered to webhooks and hooks, up to ${MAX_COUNT}`,
      },
      landfall_uploads_unfinished: {
        help: `Uploads that are neither finished nor ended, up to ${MAX_COUNT}`,
      },
    },
    () => readBacklogs(database),
  );
  metrics.observe(
    {
      landfall_event_reader_lag: {
        help: 'Events that a durable reader of the log has not handled yet',
        label: 'reader',
      },
    },
    async () => ({ landfall_event_reader_lag: await readLag(database) }),
  );
}

/** Adds what the check of stored bytes has found. */
function observeScrub(metrics: Metrics, database: DataSource): void {
  metrics.observe(
    {
      landfall_corrupted_files: { help: 'Files whose stored bytes have changed' },
      landfall_scrub_oldest_seconds: {
        help: 'All stored contents of files were read back within this time; NaN: not yet',
      },
    },
    async () => {
      const { corrupted, oldestSeconds } = await readScrub(database);
      return {
        landfall_corrupted_files: corrupted,
        landfall_scrub_oldest_seconds: oldestSeconds ?? Number.NaN,
      };
    },
  );
}

async function readBacklogs(database: DataSource) {
  const [row] = await queryRows<{ events: number; age: number; deliveries: number; uploads: number }>(
    database,
    `SELECT (SELECT count(*) FROM (SELECT FROM event_inbox LIMIT $1) AS counted)::float8 AS events,
            coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at) FROM event_inbox ORDER BY id LIMIT 1),
                     0)::float8 AS age,
            (SELECT count(*) FROM (SELECT FROM deliveries WHERE state = 'pending' LIMIT $1) AS counted)::float8 AS deliveries,
            (SELECT count(*) FROM (SELECT FROM uploads WHERE status = 'uploading' LIMIT $1) AS counted)::float8 AS uploads`,
    [MAX_COUNT],
  );
  return {
    landfall_events_unnumbered: row?.events ?? 0,
    landfall_events_unnumbered_oldest_seconds: Math.max(0, row?.age ?? 0),
    landfall_deliveries_pending: row?.deliveries ?? 0,
    landfall_uploads_unfinished: row?.uploads ?? 0,
  };
}

/**
 * The lag of each durable reader; of readers whose names begin alike up to a colon, that of the last one, so that there
 * are never many.
 */
async function readLag(database: DataSource): Promise<Record<string, number>> {
  const rows = await queryRows<{ reader: string; lag: number }>(
    database,
    `SELECT split_part(name, ':', 1) AS reader, max(greatest(event_head.seq - event_cursors.seq, 0))::float8 AS lag
     FROM event_cursors, event_head GROUP BY 1`,
  );
  return Object.fromEntries(rows.map(({ reader, lag }) => [reader, lag]));
}
