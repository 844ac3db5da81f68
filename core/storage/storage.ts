import type { Readable } from 'node:stream';

/**
 * Where bytes are. Two views of the same place: `blobs` are whole objects that never change, `uploads` are
 * objects that still grow. Keys are random, made by the caller and never used twice.
 */
export interface Storage {
  readonly blobs: BlobStore;
  readonly uploads: UploadStore;
  /** Present where clients can send bytes to the store without this server in between. */
  readonly direct?: DirectUploads;
  /** Present where other programs need room beside what is stored, and uploads end before it is used up. */
  readonly room?: StorageRoom;
  /** Throws when nothing can be stored at the moment. */
  check(): Promise<void>;
  /** All that is stored, unfinished multipart uploads too, for finding what nothing refers to. */
  list(): AsyncIterable<StoredObject>;
  /** Deletes one of those; no error if it is gone. */
  remove(object: StoredObject): Promise<void>;
}

interface StorageRoom {
  /** @throws {AppError} storage_full when no new upload should begin, and none go on */
  require(): Promise<void>;
  /** Whether that is so at the moment. */
  isShort(): Promise<boolean>;
}

export interface BlobStore {
  /**
   * Opens an object, or the bytes from `start` to `end` of it, both inclusive and from 0. The stream may break off;
   * readBlob() (blob-reader.ts) goes on then.
   * @throws {AppError} unavailable: who asks knows that it was stored, so it may come back with its disk; size_mismatch
   * when it ends before `start`
   */
  read(key: string, range?: { start: number; end: number }): Promise<Readable>;
  /** Stores a new object. When this returns, it survives a power cut. */
  write(key: string, bytes: Uint8Array): Promise<void>;
  /** Deletes an object; no error if there is none. */
  delete(key: string): Promise<void>;
  /** What another process needs to read the object; good for an hour at least. */
  reference(key: string): Promise<BlobReference>;
  /** Present where clients are to fetch bytes from the store itself: an address that is good for some minutes. */
  link?(key: string, answer: { contentType: string; contentDisposition: string }): Promise<string>;
}

/** Survives JSON. */
export type BlobReference = { kind: 'file'; path: string } | { kind: 'url'; url: string };

/** What the ledger knows of an upload's bytes. */
export interface StoredUpload {
  /** What the keys of all that is stored for it begin with. */
  key: string;
  /** Bytes that are committed. */
  offset: number;
  /** Bytes; null while it is not known. */
  length: number | null;
  state: UploadState | null;
}

/** What a store has to remember of an upload between two appends. The ledger keeps it and does not look into it. */
export interface UploadState {
  /** S3's UploadId. */
  multipartId: string | null;
  /** The lowest part number that nobody can have used. */
  nextPart: number;
  /** Objects that hold, in this order, the bytes behind the last part. */
  tail: Segment[];
}

export interface Segment {
  key: string;
  /** Bytes. */
  size: number;
}

/** A part of a multipart upload (S3, UploadPart). */
export interface Part {
  /** 1 to 10,000; ascending, gaps are allowed. */
  number: number;
  /** Bytes. */
  size: number;
  etag: string;
}

/** How far an append has come. */
export interface Progress {
  /** All bytes before it are on stable storage. */
  offset: number;
  state?: UploadState;
  /** Stored since the last commit. */
  parts?: Part[];
  /** Whether the store may hold something, now or later, that neither state nor parts name. */
  untidy?: boolean;
  /** The upload is complete, and this is its object. */
  objectKey?: string;
}

export interface UploadStore {
  /**
   * Stores what `source` yields behind the upload's offset. Calls `commit` with each offset up to which all bytes are
   * on stable storage: now and then on the way, and at the end, also when `source` ends with an error. `commit` is
   * never called twice at a time; when it throws, so does this, and nothing more is written.
   * @param signal when it aborts, somebody waits: what is on its way has only some seconds left
   * @throws {AppError} storage_full, unavailable
   */
  append(
    upload: StoredUpload,
    source: AsyncIterable<Uint8Array>,
    commit: (progress: Progress) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void>;
  /**
   * Makes the object of an upload whose bytes are all committed. May be called again, also when it was done before and
   * the answer was lost.
   * @param upload its offset is its length
   * @param parts all that were committed, by number
   * @param signal gives up when it aborts
   * @returns the key of the object, a blob of exactly that many bytes; and whether other things were left besides it
   * @throws {AppError} size_mismatch when bytes that were committed are gone; unavailable
   */
  complete(
    upload: StoredUpload,
    parts: Part[],
    signal?: AbortSignal,
  ): Promise<{ objectKey: string; untidy: boolean }>;
  /** Deletes all that is there of an upload, except the object `keep`; no error if there is nothing. */
  discard(upload: StoredUpload, keep: string | null): Promise<void>;
}

export interface DirectUploads {
  /** Begins an upload whose parts the client will send. @throws {AppError} unavailable */
  begin(key: string): Promise<UploadState>;
  /** How many bytes each part of an upload has; the last one may have less. */
  partSize(length: number): number;
  /** Addresses that take exactly `size` bytes each, for an hour. */
  sign(key: string, state: UploadState, parts: { number: number; size: number }[]): Promise<string[]>;
  /** The parts that have arrived, by number. @throws {AppError} unavailable */
  listParts(key: string, state: UploadState): Promise<Part[]>;
}

export interface StoredObject {
  key: string;
  /** Bytes; 0 for a multipart upload, which does not tell. */
  size: number;
  modified: Date;
  /** Set for an unfinished multipart upload. */
  multipartId?: string;
}
