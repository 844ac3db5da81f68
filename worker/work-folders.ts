import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chown, mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { StoredBlob } from '../core/files/blobs.js';
import type { DiskRoom } from '../core/storage/disk-room.js';
import type { Storage } from '../core/storage/storage.js';
import { openContent } from './content.js';

/*
 * Folders on local disk for steps whose programs work on files, such as ffmpeg. Each holds a copy of the content, which the
 * program may even change: the stored bytes are never given to it. A folder ends with its step. One that a crash left
 * behind is deleted when a worker starts later.
 */

export interface WorkFolder {
  /** Of the folder itself, for what the program writes. */
  path: string;
  /** Of the copy of the content. */
  content: string;
}

export interface WorkFolders {
  /**
   * Runs something in a new folder with a copy of a blob, and deletes the folder afterwards.
   * @throws {StorageFull} when the disk has no room for the copy; the signal's reason; what `run` throws
   */
  use<T>(blob: StoredBlob, signal: AbortSignal, run: (folder: WorkFolder) => Promise<T>): Promise<T>;
}

/** Longer than any step may run, so that a folder of this age belongs to no worker that lives. */
const LEFTOVER_MS = 24 * 3600_000;

/**
 * @param folder that holds the folders; it is made when it is first needed
 * @param room of the disk that the folder is on
 * @param owner the user and group who get each folder and its content (sandbox.ts); undefined: this process's own
 */
export async function openWorkFolders(
  folder: string,
  { room, storage, owner }: { room: DiskRoom; storage: Storage; owner: number | undefined },
): Promise<WorkFolders> {
  await deleteLeftovers(folder);
  return {
    async use(blob, signal, run) {
      const path = join(folder, randomUUID());
      // No other user can enter the folder that holds all of them, so a program cannot reach the folders of others.
      await mkdir(path, { recursive: true, mode: 0o700 });
      try {
        room.use(blob.size);
        const content = join(path, 'content');
        await pipeline(await openContent(storage, blob), createWriteStream(content, { mode: 0o600 }), {
          signal,
        });
        if (owner !== undefined) await Promise.all([path, content].map((one) => chown(one, owner, owner)));
        return await run({ path, content });
      } finally {
        await rm(path, { recursive: true, force: true });
      }
    },
  };
}

async function deleteLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (found && Date.now() - found.mtimeMs > LEFTOVER_MS) await rm(path, { recursive: true, force: true });
  }
}
