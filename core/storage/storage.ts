import type { Readable } from 'node:stream';

/**
 * Where bytes are. Two views of the same place: `blobs` are whole objects that never change, `uploads` are
 * objects that still grow. Keys are random, made by the caller and never used twice.
 */
export interface Storage {
  readonly blobs: BlobStore;
  readonly uploads: UploadStore;
  /** Throws when nothing can be stored at the moment. */
  check(): Promise<void>;
}

export interface BlobStore {
  /**
   * Opens an object, or the bytes from `start` to `end` of it, both inclusive and from 0.
   * @throws {AppError} unavailable: who asks knows that it was stored, so it may come back with its disk
   */
  read(key: string, range?: { start: number; end: number }): Promise<Readable>;
  /** Stores a new object. When this returns, it survives a power cut. */
  write(key: string, bytes: Uint8Array): Promise<void>;
  /** Deletes an object; no error if there is none. */
  delete(key: string): Promise<void>;
  /** What another process on this machine needs to read the object. */
  reference(key: string): BlobReference;
}

/** Survives JSON. */
export interface BlobReference {
  kind: 'file';
  path: string;
}

export interface UploadStore {
  /**
   * Stores what `source` yields from `offset` on. Calls `commit` with each offset up to which all bytes are on
   * stable storage: now and then on the way, and at the end, also when `source` ends with an error. `commit` is
   * never called twice at a time; when it throws, so does this, and nothing more is written.
   * @throws {AppError} storage_full
   */
  append(
    key: string,
    offset: number,
    source: AsyncIterable<Uint8Array>,
    commit: (offset: number) => Promise<void>,
  ): Promise<void>;
  /**
   * Makes the object whole: afterwards it is a blob of exactly `length` bytes. May be called again.
   * @throws {AppError} size_mismatch when bytes that were committed are gone
   */
  complete(key: string, length: number): Promise<void>;
  /** Deletes all that is there of an upload; no error if there is nothing. */
  discard(key: string): Promise<void>;
}
