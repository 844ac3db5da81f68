import { constants, createReadStream } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncFolder } from '../data-folder.js';
import { AppError, hasCode } from '../errors.js';
import type { BlobStore, Storage, UploadStore } from './storage.js';

/*
 * Objects as files: `<root>/ab/<key>`, where ab are the key's first two characters.
 *
 * An append writes in place behind the offset that the ledger gave. Chunks that arrive while a write is under
 * way are gathered and go out together. Every CHECKPOINT bytes or CHECKPOINT_MS, and at the end, the file is synced
 * and the ledger moves on; bytes in the file behind the ledger's offset count for nothing and are written over.
 */

/** Bytes received but not yet written at which the source has to wait. */
const MAX_GATHERED = 4 * 1024 ** 2;

/** Bytes, or time, after which an append under way is synced and committed. */
const CHECKPOINT = 32 * 1024 ** 2;
const CHECKPOINT_MS = 5_000;

/** Stores objects in the folder `root`, which is created if it is missing. */
export async function openFileStorage(root: string): Promise<Storage> {
  // Nobody else on the machine is to read what users have sent.
  await mkdir(root, { recursive: true, mode: 0o700 });
  const path = (key: string) => join(root, key.slice(0, 2), key);

  const blobs: BlobStore = {
    async read(key, range) {
      const handle = await open(path(key), 'r').catch((error: unknown) => {
        const detail = 'The stored bytes cannot be read';
        throw new AppError('unavailable', { detail, cause: error, retryable: true });
      });
      return createReadStream('', { fd: handle, ...range, highWaterMark: 256 * 1024 });
    },
    async write(key, bytes) {
      const handle = await create(path(key));
      try {
        await handle.writeFile(bytes);
        await handle.datasync();
      } catch (error) {
        throw storageError(error);
      } finally {
        await handle.close();
      }
      await syncFolder(dirname(path(key)));
    },
    delete: (key) => rm(path(key), { force: true }),
  };

  const uploads: UploadStore = {
    async append({ key, offset, length }, source, commit, { onFailure } = {}) {
      const handle = await create(path(key));
      try {
        if (offset === 0) await syncFolder(dirname(path(key)));
        const commitAt = async (reached: number) => {
          // A connection that broke may have left bytes behind the last offset of an upload of unknown length.
          const isWhole = reached === length && (await handle.stat()).size === length;
          await commit({ offset: reached, ...(isWhole ? { objectKey: key } : {}) });
        };
        await appendTo(handle, offset, source, commitAt, onFailure);
      } finally {
        await handle.close();
      }
    },
    async complete({ key, offset }) {
      const size = (await stat(path(key)).catch(ignoreMissing))?.size ?? 0;
      if (size < offset) {
        throw new AppError('size_mismatch', { detail: `Of ${offset} acknowledged bytes ${size} are left` });
      }
      const handle = await create(path(key));
      try {
        await handle.truncate(offset);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await syncFolder(dirname(path(key)));
      return { objectKey: key, untidy: false };
    },
    async discard({ key }, keep) {
      if (key !== keep) await rm(path(key), { force: true });
    },
  };

  return {
    blobs,
    uploads,
    check: () => access(root, constants.W_OK),
    async *list() {
      for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
        const stats = await stat(join(entry.parentPath, entry.name)).catch(ignoreMissing);
        if (stats?.isFile()) yield { key: entry.name, size: stats.size, modified: stats.mtime };
      }
    },
    remove: ({ key }) => blobs.delete(key),
  };
}

/** Opens for writing, creates the file and its folder if missing, and leaves the content as it is. */
async function create(path: string): Promise<FileHandle> {
  const flags = constants.O_WRONLY | constants.O_CREAT;
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw storageError(error);
    const folder = dirname(path);
    await mkdir(folder, { recursive: true });
    await syncFolder(dirname(folder));
    return open(path, flags, 0o600);
  }
}

function ignoreMissing(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT')) throw error;
}

function storageError(error: unknown): unknown {
  return hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')
    ? new AppError('storage_full', { cause: error, retryable: true })
    : error;
}

async function appendTo(
  handle: FileHandle,
  offset: number,
  source: AsyncIterable<Uint8Array>,
  commit: (offset: number) => Promise<void>,
  onFailure = () => {},
): Promise<void> {
  let committed = offset;
  const sink = createSink(handle, offset, onFailure);
  let checkpoint = Promise.resolve();
  let syncing = false;
  let lastSync = Date.now();
  let failure: unknown;
  let broken: { error: unknown } | undefined;

  const sync = async () => {
    const reached = sink.written();
    if (reached === committed) return;
    await handle.datasync();
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
  // Also after an error: what has arrived is kept, so that the client goes on from there.
  await sink.drain();
  await checkpoint;
  if (!failure) await sync();
  sink.check();
  if (failure) throw failure;
  if (broken) throw broken.error;
}

/** Writes chunks one behind the other: one write at a time, everything that waits in the next one. */
function createSink(handle: FileHandle, start: number, onFailure: () => void) {
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
        await writeAll(handle, batch, size, position);
        position += size;
      }
    } catch (error) {
      failure = storageError(error);
      onFailure();
    } finally {
      writing = undefined;
    }
  }

  const check = () => {
    if (failure) throw failure;
  };
  return {
    /** Bytes handed to the system so far, as a position in the file. */
    written: () => position,
    check,
    /** Takes a chunk; waits while too much is gathered. */
    async write(chunk: Uint8Array): Promise<void> {
      check();
      waiting.push(chunk);
      waitingBytes += chunk.byteLength;
      writing ??= writeOut();
      if (waitingBytes >= MAX_GATHERED) await writing;
    },
    /** Waits until all that was taken is written or has failed. */
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
