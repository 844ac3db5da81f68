import type { FileHandle } from 'node:fs/promises';
import type { Limiter } from '../concurrency.js';
import type { ByteBudget } from './byte-budget.js';
import type { DiskRoom } from './disk-room.js';
import { storageError } from './object-file.js';
import type { CommitTime, UploadSink } from './storage.js';
import { writeAll } from './write-all.js';

/*
 * How a file grows: in place, from the ledger's offset on. Chunks that arrive during a write are gathered and written
 * together, one write at a time. Every CHECKPOINT bytes or CHECKPOINT_MS, and at the end, the file is synced and the
 * offset is committed; the writes go on meanwhile. Bytes in the file beyond the ledger's offset do not count and are
 * overwritten. So a request whose bytes count at its end only needs nothing but a single commit.
 */

/** When one upload has gathered this many unwritten bytes, it is full. */
const MAX_GATHERED = 4 * 1024 ** 2;

/** Bytes, or time, after which a file that grows is synced and committed. */
const CHECKPOINT = 32 * 1024 ** 2;
const CHECKPOINT_MS = 5_000;

/** All uploads of the process share these. */
export interface Shared {
  budget: ByteBudget;
  room: DiskRoom;
  /** Runs calls that write or sync. */
  disk: Limiter;
}

/**
 * Takes the bytes of one request.
 * @param handle is closed by end()
 * @param start where the first byte goes
 * @param commit called with an offset before which all bytes are synced; calls do not overlap
 */
export function openFileSink(
  { budget, room, disk }: Shared,
  handle: FileHandle,
  start: number,
  commit: (offset: number) => Promise<void>,
  time: CommitTime = 'on the way',
): UploadSink {
  const failed = new AbortController();
  let gathered: Uint8Array[] = [];
  let gatheredBytes = 0;
  /** Bytes that the system has taken, as a position in the file. */
  let written = start;
  let committed = start;
  let mayCommit = true;
  let lastSync = Date.now();
  /** Running work; each of them never rejects. */
  let writing: Promise<void> | undefined;
  let syncing: Promise<void> | undefined;
  let waiting: Promise<void> | undefined;

  /** Gives up the bytes that are not written yet. */
  function drop(error: unknown): void {
    budget.give(gatheredBytes);
    gathered = [];
    gatheredBytes = 0;
    failed.abort(error);
  }

  async function writeOut(): Promise<void> {
    try {
      while (gathered.length > 0) {
        const batch = gathered;
        const size = gatheredBytes;
        gathered = [];
        gatheredBytes = 0;
        await disk(() => writeAll(handle, batch, size, written)).finally(() => budget.give(size));
        written += size;
        startSyncIfDue();
      }
    } catch (error) {
      drop(storageError(error));
    } finally {
      writing = undefined;
    }
  }

  function startSyncIfDue(): void {
    if (time === 'at the end') return;
    const isDue = written - committed >= CHECKPOINT || Date.now() - lastSync >= CHECKPOINT_MS;
    if (isDue && !failed.signal.aborted) syncing ??= sync();
  }

  async function sync(): Promise<void> {
    const reached = written;
    lastSync = Date.now();
    try {
      await disk(() => handle.datasync()).catch((error: unknown) => {
        throw storageError(error);
      });
      await commit(reached);
      committed = reached;
    } catch (error) {
      mayCommit = false;
      drop(error);
    } finally {
      syncing = undefined;
    }
  }

  function gather(chunk: Uint8Array): Promise<void> | undefined {
    if (failed.signal.aborted) {
      budget.give(chunk.byteLength);
      return undefined;
    }
    gathered.push(chunk);
    gatheredBytes += chunk.byteLength;
    writing ??= writeOut();
    return gatheredBytes >= MAX_GATHERED ? writing : undefined;
  }

  return {
    failed: failed.signal,
    write(chunk) {
      if (failed.signal.aborted) return undefined;
      try {
        room.use(chunk.byteLength);
      } catch (error) {
        // The bytes that were taken before still have room.
        failed.abort(error);
        return undefined;
      }
      const granted = budget.take(chunk.byteLength);
      if (!granted) return gather(chunk);
      waiting = granted.then(() => gather(chunk));
      return waiting;
    },
    hurry() {
      // A local disk is not asked to hurry: it answers, or it is broken.
    },
    fail: drop,
    async end() {
      try {
        await waiting;
        await writing;
        await syncing;
        // Also after a failed write: the bytes before it are kept, so that the client can resume after them. Unless all
        // bytes count or none.
        if (time === 'at the end' && failed.signal.aborted) mayCommit = false;
        if (mayCommit && written > committed) await sync();
        failed.signal.throwIfAborted();
      } finally {
        await handle.close();
      }
    },
  };
}
