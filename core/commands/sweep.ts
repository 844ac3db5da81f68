import { parseArgs } from 'node:util';
import { loadConfig, readEnvironment } from '../config.js';
import { ConfigError } from '../config-error.js';
import { withDatabase } from '../database/embedded/installation.js';
import { takeOverStorage } from '../files/claim.js';
import { failStart } from '../lifecycle.js';
import { createLogger } from '../log.js';
import { openStorage } from '../storage/open.js';
import type { StoredObject } from '../storage/storage.js';
import { type SweepCount, sweep } from '../uploads/sweep.js';

/*
 * `npm run sweep`: lists orphans (stored objects that no row refers to), and deletes them with --delete. With --take-over
 * it deletes nothing, but makes the storage this installation's.
 */

const USAGE = 'npm run sweep -- [--older-than-hours N (24)] [--delete] | --take-over';

const HOUR_MS = 3_600_000;

/** A progress line is printed each time this many objects were listed. */
const PROGRESS_EVERY = 10_000;

interface Options {
  olderThanHours: number;
  remove: boolean;
  takeOver: boolean;
}

/** @throws {ConfigError} */
function readOptions(): Options {
  let values: { 'older-than-hours': string; delete: boolean; 'take-over': boolean };
  try {
    ({ values } = parseArgs({
      options: {
        'older-than-hours': { type: 'string', default: '24' },
        delete: { type: 'boolean', default: false },
        'take-over': { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new ConfigError(`${error instanceof Error ? error.message : error}. Usage: ${USAGE}`);
  }
  const hours = values['older-than-hours'];
  if (!/^\d+(\.\d+)?$/.test(hours)) {
    throw new ConfigError(`--older-than-hours ${hours}: must be a number. Usage: ${USAGE}`);
  }
  if (values.delete && values['take-over']) {
    throw new ConfigError(`--delete and --take-over do not go together. Usage: ${USAGE}`);
  }
  return { olderThanHours: Number(hours), remove: values.delete, takeOver: values['take-over'] };
}

async function run({ olderThanHours, remove, takeOver }: Options): Promise<void> {
  const config = loadConfig(readEnvironment());
  const log = createLogger(config.logLevel, 'sweep');
  await withDatabase(config, 'landfall sweep', async (database) => {
    const storage = await openStorage(config, log);
    if (takeOver) {
      const before = await takeOverStorage({ database, storage });
      console.error(`${storage.marker.place}: now this installation's; before: ${before ?? 'no marker'}`);
      return;
    }
    const began = Date.now();
    let nextProgress = PROGRESS_EVERY;
    const count = await sweep(
      { database, storage },
      {
        before: new Date(began - olderThanHours * HOUR_MS),
        remove,
        onOrphan: (orphan) => console.log(describe(orphan, began)),
        onProgress({ listed }) {
          if (listed < nextProgress) return;
          console.error(`… ${listed} objects listed`);
          nextProgress = listed + PROGRESS_EVERY;
        },
      },
    );
    console.error(summarize(count, remove));
  });
}

function describe({ key, size, modified, multipartId }: StoredObject, now: number): string {
  const what = multipartId ? 'unfinished multipart upload' : `${size} bytes`;
  return `${key}  ${what}  ${((now - modified.getTime()) / HOUR_MS).toFixed(1)} h old`;
}

function summarize({ listed, found, bytes, foreign }: SweepCount, removed: boolean): string {
  const rest = foreign > 0 ? `; ${foreign} with names that are not Landfall's were left alone` : '';
  const hint = found > 0 && !removed ? ' Nothing was deleted: --delete does that.' : '';
  return `${listed} objects listed, ${found} orphans of ${bytes} bytes ${removed ? 'deleted' : 'found'}${rest}.${hint}`;
}

try {
  await run(readOptions());
} catch (error) {
  failStart(error);
}
