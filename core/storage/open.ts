import { join } from 'node:path';
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import { openFileStorage } from './file.js';
import type { Storage } from './storage.js';

/**
 * Opens the storage that the configuration asks for. The only place that chooses. The AWS SDK is loaded only where it is
 * used, because loading it is a good part of a start.
 */
export async function openStorage(
  config: Pick<Config, 'dataDir' | 's3' | 'uploadMemoryBudget' | 'diskReserve' | 'threadPoolSize'>,
  log: Logger,
): Promise<Storage> {
  if (config.s3) {
    const { openS3Storage } = await import('./s3/storage.js');
    return openS3Storage(config.s3, config.uploadMemoryBudget, log);
  }
  return openFileStorage(join(config.dataDir, 'blobs'), config, log);
}
