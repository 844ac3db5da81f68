import { randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Limiter } from '../../concurrency.js';
import type { Logger } from '../../log.js';
import type { DiskRoom } from '../disk-room.js';
import { writeAll } from '../write-all.js';

/*
 * Files on local disk for the bytes of slow senders, until these are enough for a part. Nothing is acknowledged from
 * them: after a crash the client sends these bytes again. So they are never synced, and each file is unlinked as soon as
 * it is open. All files together are bounded, and leave the disk's reserve free.
 */

/** Bytes of one read, and how many buffers for reads are kept: one for each connection that sends from the spool. */
const READ = 256 * 1024;
const KEPT_BUFFERS = 16;

/** How long the spool is not used after a failure, in milliseconds. */
const REST_MS = 30_000;

export interface Spool {
  /** Bytes for which its files have taken room. */
  readonly used: number;
  /** A new file, which is made when the first bytes are written. */
  create(): SpoolFile;
}

/** Bytes that are written behind each other and read back any number of times. */
export interface SpoolFile {
  /** Bytes that are written. */
  readonly size: number;
  /** Takes room for bytes; false when there is none, or when the file has failed. */
  reserve(bytes: number): boolean;
  /** Writes bytes for which room is taken. One write at a time. @returns whether all of them are in the file */
  write(chunks: Uint8Array[], bytes: number): Promise<boolean>;
  /** Reads all that is written. A chunk is valid until the next one is asked for. */
  read(): AsyncGenerator<Uint8Array>;
  /** Drops the bytes and gives the room back. */
  close(): void;
}

/** A spool that has no room. */
export const NO_SPOOL: Spool = {
  used: 0,
  create: () => ({
    size: 0,
    reserve: () => false,
    write: () => Promise.resolve(false),
    async *read() {},
    close() {},
  }),
};

/**
 * @param folder is made when it is first needed
 * @param budget bytes of all files together; 0: no spool
 * @param disk runs the reads and writes
 */
export function createSpool(
  folder: string,
  { budget, room, disk, log }: { budget: number; room: DiskRoom; disk: Limiter; log: Logger },
): Spool {
  if (budget === 0) return NO_SPOOL;
  let used = 0;
  let isPrepared = false;
  let failedAt = Number.NEGATIVE_INFINITY;
  const buffers: Buffer[] = [];

  function hasRoom(bytes: number): boolean {
    if (used + bytes > budget || performance.now() - failedAt < REST_MS) return false;
    try {
      room.use(bytes);
      return true;
    } catch {
      return false;
    }
  }

  function fail(error: unknown): void {
    if (performance.now() - failedAt < REST_MS) return;
    failedAt = performance.now();
    log.warn({ err: error, folder }, 'the spool cannot be used: the bytes of slow uploads stay in memory');
  }

  async function openFile(): Promise<FileHandle> {
    if (!isPrepared) await prepareFolder(folder);
    isPrepared = true;
    return openUnlinked(folder);
  }

  return {
    get used() {
      return used;
    },
    create() {
      let handle: FileHandle | undefined;
      let reserved = 0;
      let size = 0;
      let failed = false;
      let closed = false;
      /** Reads and writes under way. */
      let uses = 0;

      async function use<T>(work: () => Promise<T>): Promise<T> {
        uses++;
        return disk(work).finally(() => {
          uses--;
          closeUnused();
        });
      }

      function closeUnused(): void {
        if (!closed || uses > 0) return;
        used -= reserved;
        reserved = 0;
        void handle?.close().catch(fail);
        handle = undefined;
      }

      return {
        get size() {
          return size;
        },
        reserve(bytes) {
          if (failed || !hasRoom(bytes)) return false;
          used += bytes;
          reserved += bytes;
          return true;
        },
        async write(chunks, bytes) {
          try {
            await use(async () => {
              handle ??= await openFile();
              await writeAll(handle, chunks, bytes, size);
            });
            size += bytes;
            return true;
          } catch (error) {
            failed = true;
            fail(error);
            return false;
          }
        },
        async *read() {
          const buffer = buffers.pop() ?? Buffer.allocUnsafeSlow(READ);
          for (let at = 0; at < size; ) {
            const bytesRead = await use(
              async () => (await handle?.read(buffer, 0, Math.min(buffer.length, size - at), at))?.bytesRead,
            );
            if (!bytesRead) throw new Error('the spool has lost bytes');
            at += bytesRead;
            yield buffer.subarray(0, bytesRead);
          }
          // A reader that gives up does not come here: its last chunk may still be on the way to a socket.
          if (buffers.length < KEPT_BUFFERS) buffers.push(buffer);
        },
        close() {
          closed = true;
          closeUnused();
        },
      };
    },
  };
}

/** Makes the folder, and removes what a process has left that died just after it opened a file. */
async function prepareFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder)) await rm(join(folder, name), { force: true });
}

async function openUnlinked(folder: string): Promise<FileHandle> {
  const path = join(folder, randomUUID());
  const handle = await open(path, 'wx+', 0o600);
  await rm(path, { force: true });
  return handle;
}
