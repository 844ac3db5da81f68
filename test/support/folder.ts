import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MARKER, QUARANTINE } from '../../core/storage/storage.js';

/* The objects in a data folder. */

/** The keys of all stored objects. */
export async function listKeys(dataDir: string): Promise<string[]> {
  const entries = await readdir(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name !== MARKER)
    .map(({ name, parentPath }) => (parentPath.endsWith(QUARANTINE) ? `${QUARANTINE}/${name}` : name));
}

/** Where an object is stored. */
export function pathOf(dataDir: string, key: string): string {
  return key.includes('/') ? join(dataDir, 'blobs', key) : join(dataDir, 'blobs', key.slice(0, 2), key);
}
