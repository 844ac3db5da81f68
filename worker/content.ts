import type { Readable } from 'node:stream';
import type { DataSource } from 'typeorm';
import { openBlob, type StoredBlob, storeBlobs } from '../core/files/blobs.js';
import type { TaskSource } from '../core/media/parser-task.js';
import type { Storage } from '../core/storage/storage.js';

/* The only place where the worker's steps reach stored objects. */

/** Opens the whole object. */
export function openContent({ blobs }: Storage, blob: StoredBlob): Promise<Readable> {
  return openBlob(blobs, blob);
}

/** The object as the source of a parser's tasks. */
export function sourceOf({ blobs }: Storage, blob: StoredBlob): TaskSource {
  return {
    size: blob.size,
    read: (count) => openBlob(blobs, blob, count < blob.size ? { start: 0, end: count - 1 } : undefined),
  };
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
