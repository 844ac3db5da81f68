import { setTimeout as sleep } from 'node:timers/promises';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../core/database/embedded/postgres.js';
import type { Logger } from '../../core/log.js';

/** The pause between two starts, so that a PostgreSQL that cannot run does not keep the machine busy. */
const PAUSE_MS = 500;

/**
 * Runs the embedded PostgreSQL of the data folder and restarts it when it ends unexpectedly. It keeps the
 * same port, so its URL stays valid for as long as this process lives.
 * @param signal aborts the first start
 */
export async function keepPostgres(
  dataDir: string,
  log: Logger,
  signal: AbortSignal,
): Promise<Pick<EmbeddedPostgres, 'url' | 'location'> & { stop(graceMs: number): Promise<void> }> {
  const first = await startEmbeddedPostgres({ dataDir, log, signal });
  const stopping = new AbortController();
  let current = first;

  const startAgain = async () => {
    try {
      const next = await startEmbeddedPostgres({ dataDir, log, port: first.port, signal: stopping.signal });
      if (stopping.signal.aborted) await next.stop();
      current = next;
    } catch (error) {
      if (!stopping.signal.aborted) log.error({ err: error }, 'PostgreSQL could not be started again');
    }
  };
  const watch = async () => {
    for (;;) {
      await current.exited;
      if (stopping.signal.aborted) return;
      log.error('PostgreSQL ended unexpectedly and is started again');
      await startAgain();
      await sleep(PAUSE_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  };
  const watching = watch();

  const stop = async (graceMs: number) => {
    stopping.abort();
    await current.stop(graceMs);
    await watching;
  };
  return { url: first.url, location: first.location, stop };
}
