import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MARKER } from '../../core/storage/storage.js';

/* The objects in a data folder. */

/** The keys of all stored objects. */
export async function listKeys(dataDir: string): Promise<string[]> {
  const entries = await readdir(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile() && entry.name !== MARKER).map((entry) => entry.name);
}

/** Where an object is stored. */
export function pathOf(dataDir: string, key: string): string {
  return join(dataDir, 'blobs', key.slice(0, 2), key);
}
