import type { Readable } from 'node:stream';
import { AppError } from '../errors.js';

/**
 * Where bytes are stored. Two views of the same place: `blobs` are whole objects that never change, `uploads` are
 * objects that still grow. The caller makes the keys; they are random and never used twice.
 */
export interface Storage {
  readonly blobs: BlobStore;
  readonly uploads: UploadStore;
  /** Present where clients can send bytes directly to the store. */
  readonly direct?: DirectUploads;
  /** Present where other programs need room on the same disk, so that uploads must not fill it. */
  readonly room?: StorageRoom;
  /** Throws when nothing can be stored at the moment. */
  check(): Promise<void>;
  /** Bytes of uploads that wait in this process, in its memory and in files of the spool. */
  usage(): { memory: number; spool?: number };
  /** Lists everything that is stored, unfinished multipart uploads too. The sweep finds orphans with it. */
  list(): AsyncIterable<StoredObject>;
  /** Deletes an object from that list; no error if it is gone. */
  remove(object: StoredObject): Promise<void>;
  readonly marker: StorageMarker;
}

interface StorageRoom {
  /** @throws {AppError} storage_full when no upload should begin or go on */
  require(): Promise<void>;
  /** @throws {AppError} storage_full when no derivative can be stored */
  requireForDerived(): Promise<void>;
  /** Whether `require` would throw now. */
  isShort(): Promise<boolean>;
}

/**
 * The store gave no answer, or only said that it is overloaded or away. This says nothing about the object of the
 * call: the same call may work later.
 */
export class StoreAway extends Error {
  override name = 'StoreAway';
  constructor(cause: unknown) {
    super('The storage does not answer', { cause });
  }
}

/** Bytes that the store has acknowledged are gone. The upload or object cannot be completed any more. */
export class BytesLost extends AppError {
  override name = 'BytesLost';
  constructor(detail: string, cause?: unknown) {
    super('size_mismatch', { detail, cause });
  }
}

/** Whether an operation failed only because the store gave no answer. */
export function isStoreAway(error: unknown): boolean {
  return error instanceof StoreAway || (error instanceof Error && error.cause instanceof StoreAway);
}

/** A text that names the installation that owns the storage; see claim.ts. list() leaves it out. */
interface StorageMarker {
  /** Where the storage is, as configuration variables and their values. */
  readonly place: string;
  /** Name of the object or file that holds the text. */
  readonly name: string;
  /** @returns undefined if there is none */
  read(): Promise<string | undefined>;
  write(text: string): Promise<void>;
}

/** No key of an object has this form. */
export const MARKER = 'landfall-installation';

/** Keys of objects in quarantine begin with this folder; all other keys have none. */
export const QUARANTINE = 'quarantine';

export interface BlobStore {
  /**
   * Opens an object, or the bytes from `start` to `end` of it, both inclusive and from 0. The stream may break off;
   * readObjects() (object-reader.ts) resumes it.
   * @throws {AppError} unavailable when the object cannot be opened, even if it is missing: the caller knows that it was
   * stored, so it may come back with its disk; size_mismatch when it ends before `start`
   */
  read(key: string, range?: { start: number; end: number }): Promise<Readable>;
  /** Stores a new object. When this returns, it survives a power cut. */
  write(key: string, bytes: Uint8Array): Promise<void>;
  /**
   * Stores a copy of an object under a new key, within the store. When this returns, it survives a power cut.
   * @param size of the object, in bytes
   * @throws {AppError} unavailable
   */
  copy(key: string, size: number, to: string): Promise<void>;
  /** Deletes an object; no error if there is none. @throws {StoreAway} */
  delete(key: string): Promise<void>;
  /** Present where clients fetch bytes from the store itself. Returns an address that is valid for some minutes. */
  link?(key: string, answer: { contentType: string; contentDisposition: string }): Promise<string>;
}

/** The part of an upload's ledger row that the store needs. */
export interface StoredUpload {
  /** Prefix of the keys of all objects that are stored for this upload. */
  key: string;
  /** Bytes that are committed. */
  offset: number;
  /** Bytes; null while it is not known. */
  length: number | null;
  state: UploadState | null;
}

/** The store's own state of an upload between two appends. The ledger keeps it and does not interpret it. */
export interface UploadState {
  /** S3's UploadId. */
  multipartId: string | null;
  /** The lowest part number that no process can have used. */
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

/** How far the bytes of a request have come. */
export interface Progress {
  /** All bytes before it are on stable storage. */
  offset: number;
  state?: UploadState;
  /** Parts that were stored since the last commit. */
  parts?: Part[];
  /** Whether the store may hold bytes, now or later, that neither state nor parts name. */
  untidy?: boolean;
  /** The upload is complete, and this is its object. */
  objectKey?: string;
}

/**
 * When the bytes of a request count. `on the way`: now and then while they arrive, so that a broken connection or a
 * killed server costs few of them. `at the end`: all of them or none, because they are still to be verified.
 */
export type CommitTime = 'on the way' | 'at the end';

export interface UploadStore {
  /**
   * Opens an upload for writing at its offset. Calls `commit` with offsets before which all bytes are on stable
   * storage: now and then on the way, and at the end. With `at the end`, the offset moves with the last call only, and
   * not at all if the sink has failed. Calls of `commit` never overlap. When `commit` throws, nothing more
   * is written; an AppError says that the ledger has refused and changed nothing.
   * @throws {AppError} storage_full, unavailable; {BytesLost} when acknowledged bytes are gone
   */
  open(
    upload: StoredUpload,
    commit: (progress: Progress) => Promise<void>,
    time?: CommitTime,
  ): Promise<UploadSink>;
  /**
   * Makes the object of an upload whose bytes are all committed. May be called again, for example when an earlier call
   * made the object and its answer was lost.
   * @param upload its offset is its length
   * @param parts all committed parts, by number
   * @param signal gives up when it aborts
   * @returns the key of the object, which has exactly `length` bytes; and whether other objects of the upload are left
   * @throws {BytesLost} when committed bytes are gone; {AppError} unavailable, caused by StoreAway if the store gave no
   * answer
   */
  complete(
    upload: StoredUpload,
    parts: Part[],
    signal?: AbortSignal,
  ): Promise<{ objectKey: string; untidy: boolean }>;
  /**
   * Deletes everything that is stored for an upload, except the object `keep`; no error if there is nothing.
   * @throws {StoreAway}
   */
  discard(upload: StoredUpload, keep: string | null): Promise<void>;
}

/** Takes the bytes of one request. */
export interface UploadSink {
  /**
   * Takes the next bytes; the chunk belongs to the sink from now on. Synchronous: no promise for each chunk.
   * @returns undefined: the sink takes more; a promise: the sink is full, and the caller writes nothing until it
   * resolves. The promise never rejects; look at `failed`.
   */
  write(chunk: Uint8Array): Promise<void> | undefined;
  /** Aborts when nothing more can be stored; its reason is the error that end() throws. */
  readonly failed: AbortSignal;
  /**
   * From now on what is being written has only a few seconds left: another request waits, or the body has broken off.
   */
  hurry(): void;
  /** Nothing more is stored: the bytes are not what they should be. @param error is what end() throws */
  fail(error: unknown): void;
  /**
   * Stores and commits all bytes that write() took, and gives every resource back. Call it exactly once, also after
   * `failed`.
   * @throws the first error
   */
  end(): Promise<void>;
}

export interface DirectUploads {
  /** Begins an upload whose parts the client will send. @throws {AppError} unavailable */
  begin(key: string): Promise<UploadState>;
  /** How many seconds addresses are valid. */
  readonly addressSeconds: number;
  /** How many bytes each part of an upload has; the last part may have fewer. */
  partSize(length: number): number;
  /** Addresses that take exactly `size` bytes each. */
  sign(key: string, state: UploadState, parts: { number: number; size: number }[]): Promise<string[]>;
  /** The parts that have arrived, by number. @throws {AppError} unavailable */
  listParts(key: string, state: UploadState): Promise<Part[]>;
}

export interface StoredObject {
  key: string;
  /** Bytes; 0 for a multipart upload, whose size the store does not list. */
  size: number;
  modified: Date;
  /** Set for an unfinished multipart upload. */
  multipartId?: string;
}
