import { join } from 'node:path';
import { createLimiter } from '../concurrency.js';
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import type { Metrics } from '../metrics/metrics.js';
import { watchDiskRoom } from './disk-room.js';
import { openFileStorage } from './file.js';
import { createSpool } from './s3/spool.js';
import type { Storage } from './storage.js';

type StorageConfig = Pick<
  Config,
  'dataDir' | 's3' | 'uploadMemoryBudget' | 'uploadSpoolBudget' | 'diskReserve' | 'threadPoolSize'
>;

/**
 * Opens the storage that the configuration asks for. The only place that chooses. The SDK of S3 is loaded only where it is
 * used, because loading it is a good part of a start.
 */
export async function openStorage(
  config: StorageConfig,
  log: Logger,
  metrics?: Pick<Metrics, 'sentToStore'>,
): Promise<Storage> {
  if (config.s3) {
    const { openS3Storage } = await import('./s3/storage.js');
    return openS3Storage(config.s3, config.uploadMemoryBudget, log, { spool: spoolOf(config, log), metrics });
  }
  return openFileStorage(join(config.dataDir, 'blobs'), config, log);
}

function spoolOf(config: StorageConfig, log: Logger) {
  const folder = join(config.dataDir, 'spool');
  const effect = { short: 'the bytes of slow uploads stay in memory', over: 'slow uploads use the spool' };
  return createSpool(folder, {
    budget: config.uploadSpoolBudget,
    room: watchDiskRoom(folder, config.diskReserve, log, { effect }),
    // As for objects in files: half of the threads.
    disk: createLimiter(Math.max(1, Math.floor(config.threadPoolSize / 2))),
    log,
  });
}
