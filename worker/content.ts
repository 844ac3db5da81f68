import { Readable } from 'node:stream';
import type { DataSource } from 'typeorm';
import { openBlob, type StoredBlob, storeBlobs } from '../core/files/blobs.js';
import type { TaskSource } from '../core/media/parser-task.js';
import { HEAD } from '../core/media/types.js';
import type { Storage } from '../core/storage/storage.js';

/* The only place where the worker's steps reach stored objects. */

/** Opens the whole object. */
export function openContent({ blobs }: Storage, blob: StoredBlob): Promise<Readable> {
  return openBlob(blobs, blob);
}

/** The object as the source of a parser's tasks. */
export function sourceOf({ blobs }: Pick<Storage, 'blobs'>, blob: StoredBlob): TaskSource {
  return {
    size: blob.size,
    read: (count) => openBlob(blobs, blob, count < blob.size ? { start: 0, end: count - 1 } : undefined),
  };
}

/** The directories of most archives are smaller: some 200,000 entries. */
const END_BYTES = 16 * 1024 ** 2;

/** The beginning and the end of the object as the source of a task; the whole of a small one. */
export function endsOf({ blobs }: Storage, blob: StoredBlob): TaskSource {
  const { size } = blob;
  if (size <= HEAD + END_BYTES) return sourceOf({ blobs }, blob);
  async function* read(): AsyncGenerator<Buffer> {
    yield* await openBlob(blobs, blob, { start: 0, end: HEAD - 1 });
    yield* await openBlob(blobs, blob, { start: size - END_BYTES, end: size - 1 });
  }
  return { size, sent: HEAD + END_BYTES, read: async () => Readable.from(read()) };
}

export interface DerivativeStore {
  /** @throws {StorageFull} when nothing can be stored */
  requireRoom(): Promise<void>;
  /**
   * Stores the bytes of derivatives durably.
   * @returns their blobs, which have no reference yet
   * @throws {StorageFull}
   */
  write(contents: Uint8Array[]): Promise<StoredBlob[]>;
}

export function createDerivativeStore(deps: { database: DataSource; storage: Storage }): DerivativeStore {
  const requireRoom = async () => deps.storage.room?.requireForDerived();
  return {
    requireRoom,
    async write(contents) {
      // Before the rows are written: those of blobs that were never stored stay for an hour.
      await requireRoom();
      return storeBlobs(deps, contents);
    },
  };
}
