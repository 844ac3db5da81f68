import { join } from 'node:path';
import type { Config } from '../config.js';
import { openFileStorage } from './file.js';
import type { Storage } from './storage.js';

/** Opens the storage that the configuration asks for. The only place that chooses. */
export async function openStorage(config: Pick<Config, 'dataDir'>): Promise<Storage> {
  return openFileStorage(join(config.dataDir, 'blobs'));
}
