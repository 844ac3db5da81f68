import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, lstat, mkdir, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { addAbortSignal } from 'node:stream';
import { syncFolder } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import type { FolderDestination } from './destinations.js';
import { type Delivery, deliveryRefused, destinationAway, type Receiver } from './receiver.js';

/*
 * Delivery to a folder. The file is written under a temporary name beside its place, and gets its name when all bytes are on
 * the disk. Readers of the folder leave out names that begin with a dot; no delivered file has such a name.
 */

/** Failures that last until somebody changes something. */
const LASTING = ['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP', 'EISDIR'];

/** How file systems without hard links answer. */
const NO_LINKS = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/** Nothing is opened before it is needed. */
export function openFolder({ name, folder }: FolderDestination): Receiver {
  const guarded = async <T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof AppError || signal?.aborted) throw error;
      const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
      throw LASTING.includes(code) ? deliveryRefused(name, code, error) : destinationAway(name, code, error);
    }
  };

  return {
    look: (key, delivery) => guarded(() => look(join(folder, key), delivery)),
    put: (key, delivery, attempt) =>
      guarded(async () => {
        // Not created: it may be the place of a disk that is not mounted now.
        await stat(folder);
        const path = join(folder, key);
        const parent = dirname(path);
        await mkdir(parent, { recursive: true });
        if (attempt.unfinished) await rm(join(parent, attempt.unfinished), { force: true });
        const temporary = `.landfall-${randomUUID()}`;
        await attempt.begin(temporary);
        const isPlaced = await write(join(parent, temporary), path, delivery, attempt.signal);
        for (let synced = parent; synced.length >= folder.length; synced = dirname(synced)) {
          await syncFolder(synced);
        }
        return isPlaced;
      }, attempt.signal),
  };
}

/** A file has no mark, so its bytes are compared. */
async function look(path: string, { file, source }: Delivery): Promise<'free' | 'own' | 'taken'> {
  const found = await lstat(path).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (!found) return 'free';
  if (!found.isFile() || found.size !== source.size) return 'taken';
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest('hex') === file.sha256 ? 'own' : 'taken';
}

/** @returns false: there is something at the path */
async function write(
  temporary: string,
  path: string,
  { source }: Delivery,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    const handle = await open(temporary, 'wx');
    try {
      await writeFile(handle, addAbortSignal(signal, await source.open()));
      await handle.sync();
    } finally {
      await handle.close();
    }
    return await place(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Gives a file its name, unless there is something under this name: link() fails then, rename() would replace it. */
async function place(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false;
    if (!NO_LINKS.some((code) => hasCode(error, code))) throw error;
  }
  const isFree = await lstat(path).then(
    () => false,
    (error: unknown) => hasCode(error, 'ENOENT'),
  );
  if (isFree) await rename(temporary, path);
  return isFree;
}
