import type { Storage } from './storage.js';

/**
 * Asks whether objects can be stored and read at the moment. A store may answer for its bucket and yet give no objects,
 * and a folder may stand where a disk was mounted: so the marker is read too.
 * @throws when not
 */
export async function checkStorage(storage: Storage): Promise<void> {
  await storage.check();
  const marker = await storage.marker.read();
  if (marker === undefined) throw new Error(`${storage.marker.place}: ${storage.marker.name} is missing`);
}
