import { join } from 'node:path';
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import { openFileStorage } from './file.js';
import { openS3Storage } from './s3/storage.js';
import type { Storage } from './storage.js';

/** Opens the storage that the configuration asks for. The only place that chooses. */
export async function openStorage(
  config: Pick<Config, 'dataDir' | 's3' | 'uploadMemoryBudget' | 'diskReserve' | 'threadPoolSize'>,
  log: Logger,
): Promise<Storage> {
  if (config.s3) return openS3Storage(config.s3, config.uploadMemoryBudget, log);
  return openFileStorage(join(config.dataDir, 'blobs'), config, log);
}
