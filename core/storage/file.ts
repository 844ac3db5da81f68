import { constants, createReadStream } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createLimiter, type Limiter } from '../concurrency.js';
import type { Config } from '../config.js';
import { readOptional, syncFolder, writeDurably } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import type { Logger } from '../log.js';
import { type ByteBudget, createByteBudget } from './byte-budget.js';
import { type DiskRoom, watchDiskRoom } from './disk-room.js';
import { createFile, nameOutage, openGrown, rethrowStorageError, storageError } from './object-file.js';
import { type BlobStore, MARKER, type Storage, type UploadStore } from './storage.js';

/*
 * Objects as files: `<root>/ab/<key>`, where ab are the key's first two characters.
 *
 * An append writes in place, from the ledger's offset on. Chunks that arrive during a write are gathered and written
 * together. Every CHECKPOINT bytes or CHECKPOINT_MS, and at the end, the file is synced and the offset is committed.
 * Bytes in the file beyond the ledger's offset do not count and are overwritten.
 *
 * All uploads of the process share three things. The memory for gathered bytes is one budget: when the disk stalls, the
 * sockets wait. Calls that write or sync run on libuv's threads, which also read files and hash passwords, so these
 * calls get only half of the threads. And the disk has a reserve that uploads must not use.
 */

/** When one upload has gathered this many unwritten bytes, its source has to wait. */
const MAX_GATHERED = 4 * 1024 ** 2;

/** Bytes, or time, after which an append under way is synced and committed. */
const CHECKPOINT = 32 * 1024 ** 2;
const CHECKPOINT_MS = 5_000;

/** Shared by all uploads of the process. */
interface Shared {
  budget: ByteBudget;
  room: DiskRoom;
  /** Runs calls that write or sync. */
  disk: Limiter;
}

/** Stores objects in the folder `root`, which is created if it is missing. */
export async function openFileStorage(
  root: string,
  config: Pick<Config, 'uploadMemoryBudget' | 'diskReserve' | 'threadPoolSize'>,
  log: Logger,
): Promise<Storage> {
  // Other users of the machine must not read the files.
  await mkdir(root, { recursive: true, mode: 0o700 });
  const path = (key: string) => join(root, key.slice(0, 2), key);
  const room = watchDiskRoom(root, config.diskReserve, log);
  const disk = createLimiter(Math.max(1, Math.floor(config.threadPoolSize / 2)));
  const shared: Shared = { budget: createByteBudget(config.uploadMemoryBudget), room, disk };

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
    delete: remove,
  };

  const uploads: UploadStore = {
    async append({ key, offset, length }, source, commit, { onFailure } = {}) {
      const handle = await openToAppend(path(key), offset).catch((error: unknown) => {
        // Nothing will read the source: end it.
        onFailure?.();
        throw error;
      });
      try {
        const commitAt = async (reached: number) => {
          await commit({ offset: reached, ...((await isWhole(reached)) ? { objectKey: key } : {}) });
        };
        await appendTo(shared, handle, offset, source, commitAt, onFailure);
      } finally {
        await handle.close();
      }

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

  async function openToAppend(path: string, offset: number): Promise<FileHandle> {
    await room.require();
    return openStored(path, offset);
  }

  return {
    blobs,
    uploads,
    room,
    check: () => access(root, constants.W_OK),
    async *list() {
      // Folder by folder: all names together may not fit into memory. A file outside these folders is no object.
      const folders = await readdir(root, { withFileTypes: true });
      for (const folder of folders) {
        if (!folder.isDirectory()) continue;
        for (const key of await readdir(join(root, folder.name))) {
          const stats = await stat(join(root, folder.name, key)).catch(ignoreMissing);
          if (stats?.isFile()) yield { key, size: stats.size, modified: stats.mtime };
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

async function appendTo(
  shared: Shared,
  handle: FileHandle,
  offset: number,
  source: AsyncIterable<Uint8Array>,
  commit: (offset: number) => Promise<void>,
  onFailure = () => {},
): Promise<void> {
  let committed = offset;
  const sink = createSink(shared, handle, offset, onFailure);
  let checkpoint = Promise.resolve();
  let syncing = false;
  let lastSync = Date.now();
  let failure: unknown;
  let broken: { error: unknown } | undefined;

  const sync = async () => {
    const reached = sink.written();
    if (reached === committed) return;
    await shared.disk(() => handle.datasync()).catch(rethrowStorageError);
    await commit(reached);
    committed = reached;
  };

  try {
    for await (const chunk of source) {
      if (failure) break;
      await sink.write(chunk);
      const due = sink.written() - committed >= CHECKPOINT || Date.now() - lastSync >= CHECKPOINT_MS;
      if (!syncing && due) {
        syncing = true;
        lastSync = Date.now();
        checkpoint = sync()
          .catch((error: unknown) => {
            failure = error;
            onFailure();
          })
          .finally(() => {
            syncing = false;
          });
      }
    }
  } catch (error) {
    broken = { error };
  }
  // Also after an error: the bytes that have arrived are kept, so that the client can resume after them.
  await sink.drain();
  await checkpoint;
  if (!failure) await sync();
  sink.check();
  if (failure) throw failure;
  if (broken) throw broken.error;
}

/** Writes chunks in order, one write at a time. Each write takes all chunks that are waiting. */
function createSink(
  { budget, room, disk }: Shared,
  handle: FileHandle,
  start: number,
  onFailure: () => void,
) {
  let position = start;
  let waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  let writing: Promise<void> | undefined;
  let failure: unknown;

  async function writeOut(): Promise<void> {
    try {
      while (waiting.length > 0) {
        const batch = waiting;
        const size = waitingBytes;
        waiting = [];
        waitingBytes = 0;
        await disk(() => writeAll(handle, batch, size, position)).finally(() => budget.give(size));
        position += size;
      }
    } catch (error) {
      failure = storageError(error);
      drop();
      onFailure();
    } finally {
      writing = undefined;
    }
  }

  function drop(): void {
    budget.give(waitingBytes);
    waiting = [];
    waitingBytes = 0;
  }

  const check = () => {
    if (failure) throw failure;
  };
  return {
    /** Bytes handed to the system so far, as a position in the file. */
    written: () => position,
    check,
    /** Takes a chunk; waits while too much is gathered, by this upload or by all. */
    async write(chunk: Uint8Array): Promise<void> {
      check();
      room.use(chunk.byteLength);
      await budget.take(chunk.byteLength);
      if (failure) budget.give(chunk.byteLength);
      check();
      waiting.push(chunk);
      waitingBytes += chunk.byteLength;
      writing ??= writeOut();
      if (waitingBytes >= MAX_GATHERED) await writing;
    },
    /** Waits until all chunks are written or the write has failed. */
    async drain(): Promise<void> {
      await writing;
    },
  };
}

/** writev may write less than it was given. */
async function writeAll(
  handle: FileHandle,
  batch: Uint8Array[],
  size: number,
  position: number,
): Promise<void> {
  const { bytesWritten } = await handle.writev(batch, position);
  if (bytesWritten === size) return;
  const rest = Buffer.concat(batch).subarray(bytesWritten);
  for (let done = 0; done < rest.length; ) {
    const result = await handle.write(rest, done, rest.length - done, position + bytesWritten + done);
    done += result.bytesWritten;
  }
}
