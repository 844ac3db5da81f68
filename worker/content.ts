import type { Readable } from 'node:stream';
import type { DataSource } from 'typeorm';
import type { Blob } from '../core/database/entities/blob.js';
import { reserveBlobs } from '../core/files/blobs.js';
import type { ByteSource } from '../core/media/parser-task.js';
import { readBlob } from '../core/storage/blob-reader.js';
import type { Storage } from '../core/storage/storage.js';

/* The only place where the worker's steps reach stored objects. */

/** Opens the whole object. */
export function openContent({ blobs }: Storage, blob: Blob): Promise<Readable> {
  return readBlob(blobs, blob);
}

/** The object as the source of a parser's tasks. */
export function sourceOf({ blobs }: Storage, blob: Blob): ByteSource {
  return {
    size: blob.size,
    read: (count) => readBlob(blobs, blob, count < blob.size ? { start: 0, end: count - 1 } : undefined),
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
  write(contents: Uint8Array[]): Promise<Blob[]>;
}

export function createDerivativeStore(deps: { database: DataSource; storage: Storage }): DerivativeStore {
  const { database, storage } = deps;
  const requireRoom = async () => storage.room?.requireForDerived();
  return {
    requireRoom,
    async write(contents) {
      // Before the rows are written: those of blobs that were never stored stay for an hour.
      await requireRoom();
      const sizes = contents.map((bytes) => bytes.byteLength);
      const blobs = await reserveBlobs(database, sizes);
      await Promise.all(contents.map((bytes, index) => storage.blobs.write(blobs[index]?.key ?? '', bytes)));
      return blobs;
    },
  };
}
