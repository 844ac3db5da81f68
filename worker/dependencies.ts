import { setTimeout as pause } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { within } from '../core/concurrency.js';
import { execute } from '../core/database/rows.js';
import type { Logger } from '../core/log.js';
import type { Scanner } from '../core/scanning/scanner.js';
import { checkStorage } from '../core/storage/check.js';
import type { Storage } from '../core/storage/storage.js';

/** The services that every file needs: PostgreSQL, the store and a virus scanner. An outage is never the file's fault. */
export interface Dependencies {
  /** As far as is known. */
  readonly away: boolean;
  /** Asks the services after a failure. @returns whether one is away */
  check(): Promise<boolean>;
  stop(): void;
}

/** The longest time for an answer: a service that hangs counts as away. */
const ANSWER_MS = 5_000;

/** Pause before the next question to a service that is away; it doubles each time. */
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Tells whether these services work. After the first failure, one loop of the process asks them until all answer again.
 * @param options.scanner undefined: none outside of this process
 * @param options.onAway the worker must take no more jobs
 * @param options.onBack the worker may continue
 */
export function watchDependencies(options: {
  database: DataSource;
  storage: Storage;
  scanner?: Pick<Scanner, 'version'> | undefined;
  log: Logger;
  onAway: () => void;
  onBack: () => void;
}): Dependencies {
  const { database, storage, scanner, log } = options;
  const parts: Record<string, () => Promise<unknown>> = {
    database: () => execute(database, 'SELECT 1'),
    storage: () => checkStorage(storage),
    ...(scanner ? { 'virus scanner': () => scanner.version() } : {}),
  };
  const stopping = new AbortController();
  let away = false;

  async function findAway(): Promise<{ part: string; err: unknown } | undefined> {
    for (const [part, ask] of Object.entries(parts)) {
      try {
        await within(ANSWER_MS, ask(), part);
      } catch (err) {
        return { part, err };
      }
    }
    return undefined;
  }

  async function waitForReturn(): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    do {
      await pause(pauseMs, undefined, { signal: stopping.signal });
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    } while (await findAway());
    away = false;
    log.info('all services answer again: jobs are taken');
    options.onBack();
  }

  return {
    get away() {
      return away;
    },
    async check() {
      if (away) return true;
      const found = await findAway();
      // Another job may have noticed this meanwhile.
      if (found && !away) {
        away = true;
        log.error(found, `the ${found.part} does not answer: no jobs are taken until it does`);
        options.onAway();
        waitForReturn().catch(() => {});
      }
      return away;
    },
    stop: () => stopping.abort(),
  };
}
