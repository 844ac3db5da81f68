import { constants, createReadStream } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createLimiter } from '../concurrency.js';
import type { Config } from '../config.js';
import { readOptional, syncFolder, writeDurably } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import type { Logger } from '../log.js';
import { createByteBudget } from './byte-budget.js';
import { watchDiskRoom } from './disk-room.js';
import { openFileSink, type Shared } from './file-sink.js';
import { copyContent, createFile, nameOutage, openGrown, storageError } from './object-file.js';
import { type BlobStore, MARKER, QUARANTINE, type Storage, type UploadStore } from './storage.js';

/*
 * Objects as files: `<root>/ab/<key>`, where ab are the key's first two characters, or `<root>/<key>` for a key with a
 * folder. For how they grow see file-sink.ts.
 *
 * All uploads of the process share three things. The memory for gathered bytes is one budget: when the disk stalls, the
 * sockets wait. Calls that write or sync run on libuv's threads, which also read files and hash passwords, so these
 * calls get only half of the threads. And the disk has a reserve that uploads must not use.
 */

/** Stores objects in the folder `root`, which is created if it is missing. */
export async function openFileStorage(
  root: string,
  config: Pick<Config, 'uploadMemoryBudget' | 'diskReserve' | 'threadPoolSize'>,
  log: Logger,
): Promise<Storage> {
  // Other users of the machine must not read the files.
  await mkdir(root, { recursive: true, mode: 0o700 });
  const path = (key: string) => (key.includes('/') ? join(root, key) : join(root, key.slice(0, 2), key));
  const budget = createByteBudget(config.uploadMemoryBudget);
  const room = watchDiskRoom(root, config.diskReserve, log, { unwritten: () => budget.taken });
  const disk = createLimiter(Math.max(1, Math.floor(config.threadPoolSize / 2)));
  const shared: Shared = { budget, room, disk };

  const rethrow = async (error: unknown): Promise<never> => {
    throw storageError(await nameOutage(root, error));
  };
  const remove = (key: string) =>
    disk(() => rm(path(key))).catch(async (error: unknown) => {
      const known = await nameOutage(root, error);
      if (!hasCode(known, 'ENOENT')) throw known;
    });

  const blobs: BlobStore = {
    async read(key, range) {
      const handle = await open(path(key), 'r').catch((error: unknown) => {
        const detail = 'The stored bytes cannot be read';
        throw new AppError('unavailable', { detail, cause: error, retryable: true });
      });
      return createReadStream('', { fd: handle, ...range, highWaterMark: 256 * 1024 });
    },
    async write(key, bytes) {
      await room.requireForDerived();
      await disk(async () => {
        const handle = await createFile(path(key));
        try {
          await handle.writeFile(bytes);
          await handle.datasync();
        } finally {
          await handle.close();
        }
        await syncFolder(dirname(path(key)));
      }).catch(rethrow);
    },
    async copy(key, _size, to) {
      await disk(async () => {
        await copyContent(path(key), path(to));
        await syncFolder(dirname(path(to)));
      }).catch(rethrow);
    },
    delete: remove,
  };

  const uploads: UploadStore = {
    async open({ key, offset, length }, commit, time) {
      await room.require();
      const handle = await openStored(path(key), offset);
      const commitAt = async (reached: number) => {
        await commit({ offset: reached, ...((await isWhole(reached)) ? { objectKey: key } : {}) });
      };
      return openFileSink(shared, handle, offset, commitAt, time);

      /**
       * Whether the file is the whole object. In an upload of unknown length, a broken connection may have left bytes
       * beyond the offset; and the file may have been deleted meanwhile.
       */
      async function isWhole(reached: number): Promise<boolean> {
        if (reached !== length) return false;
        const { size, nlink } = await handle.stat();
        return size === length && nlink > 0;
      }
    },
    async complete({ key, offset }) {
      const handle = await openStored(path(key), offset);
      try {
        await disk(async () => {
          await handle.truncate(offset);
          await handle.sync();
        }).catch(rethrow);
      } finally {
        await handle.close();
      }
      await disk(() => syncFolder(dirname(path(key)))).catch(rethrow);
      return { objectKey: key, untidy: false };
    },
    async discard({ key }, keep) {
      if (key !== keep) await remove(key);
    },
  };

  /** Opens the object of an upload that has come as far as `offset`. */
  async function openStored(path: string, offset: number): Promise<FileHandle> {
    if (offset > 0) return openGrown(path, offset);
    return disk(async () => {
      const handle = await createFile(path);
      await syncFolder(dirname(path));
      return handle;
    }).catch(rethrow);
  }

  return {
    blobs,
    uploads,
    room,
    check: () => access(root, constants.W_OK),
    usage: () => ({ memory: budget.taken }),
    async *list() {
      // Folder by folder: all names together may not fit into memory. A file outside these folders is no object.
      const folders = await readdir(root, { withFileTypes: true });
      for (const folder of folders) {
        if (!folder.isDirectory()) continue;
        for (const key of await readdir(join(root, folder.name))) {
          const stats = await stat(join(root, folder.name, key)).catch(ignoreMissing);
          const named = folder.name === QUARANTINE ? `${QUARANTINE}/${key}` : key;
          if (stats?.isFile()) yield { key: named, size: stats.size, modified: stats.mtime };
        }
      }
    },
    remove: ({ key }) => blobs.delete(key),
    marker: {
      place: `DATA_DIR: ${root}`,
      name: MARKER,
      read: () => readOptional(join(root, MARKER)),
      write: (text) => writeDurably(join(root, MARKER), text),
    },
  };
}

function ignoreMissing(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT')) throw error;
}
