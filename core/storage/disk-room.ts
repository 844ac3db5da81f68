import { statfs } from 'node:fs/promises';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';

/*
 * The disk's reserve, which uploads must not use. The embedded PostgreSQL, logs and other programs on the disk need room
 * even when a user fills the rest: a database that cannot write stops everything, even deletions.
 */

/** The default reserve is the larger of these two: a number of bytes, and a share of the file system. */
const RESERVE_BYTES = 1024 ** 3;
const RESERVE_SHARE = 0.02;

/** A measurement is valid for this time and this many bytes (a share of the reserve): other programs write too. */
const FRESH_MS = 1000;
const FRESH_SHARE = 1 / 8;

/** The shortage ends when this share of the reserve is free in addition. Otherwise it would begin and end constantly. */
const RECOVERY_SHARE = 1 / 16;

/** Thumbnails are small, and their uploads were accepted: they may use the reserve down to this share of it. */
const DERIVED_SHARE = 0.5;

export interface DiskRoom {
  /**
   * Records that this many bytes are about to be written. Does not wait.
   * @throws {StorageFull} when they would use the reserve
   */
  use(bytes: number): void;
  /** @throws {StorageFull} when no upload should begin or go on */
  require(): Promise<void>;
  /** @throws {StorageFull} when no derivative can be stored */
  requireForDerived(): Promise<void>;
  /** Whether uploads are refused at the moment. */
  isShort(): Promise<boolean>;
}

export interface DiskRoomOptions {
  /** Bytes that use() has recorded and that are not written yet, so that a measurement cannot see them. */
  unwritten?: () => number;
  /** The log's words for a shortage and for its end. */
  effect?: { short: string; over: string };
}

/** @param reserve bytes of the folder's file system to keep free; undefined: 1 GiB, or 2 % if that is more */
export function watchDiskRoom(
  folder: string,
  reserve: number | undefined,
  log: Logger,
  {
    unwritten = () => 0,
    effect = { short: 'uploads are refused until there is room', over: 'uploads are taken' },
  }: DiskRoomOptions = {},
): DiskRoom {
  /** The measured free bytes minus the bytes that were not written then, or are used since. */
  let free = Number.POSITIVE_INFINITY;
  let used = 0;
  let reserved = 0;
  let measuredAt = Number.NEGATIVE_INFINITY;
  let measuring: Promise<void> | undefined;
  let short = false;

  async function measure(): Promise<void> {
    const waiting = unwritten();
    used = 0;
    // If the folder is gone, the writes into it report that.
    const found = await statfs(folder).catch(() => undefined);
    measuredAt = performance.now();
    if (!found) return;
    // Bytes that were written during the measurement may count twice. That errs on the safe side, until the next one.
    free = found.bavail * found.bsize - waiting - used;
    reserved = reserve ?? Math.max(RESERVE_BYTES, Math.ceil(found.blocks * found.bsize * RESERVE_SHARE));
    note();
  }

  function note(): void {
    const before = short;
    short = free < (short ? reserved * (1 + RECOVERY_SHARE) : reserved);
    if (short === before) return;
    const numbers = { freeBytes: free, reserveBytes: reserved };
    if (short) log.warn(numbers, `the disk is full up to its reserve: ${effect.short}`);
    else log.warn(numbers, `the disk has room again: ${effect.over}`);
  }

  function refresh(): Promise<void> | undefined {
    const isNear = reserved > 0 && used > reserved * FRESH_SHARE;
    if (!isNear && performance.now() - measuredAt < FRESH_MS) return undefined;
    measuring ??= measure().finally(() => {
      measuring = undefined;
    });
    return measuring;
  }

  return {
    use(bytes) {
      used += bytes;
      free -= bytes;
      void refresh();
      note();
      if (short) throw new StorageFull();
    },
    async require() {
      await refresh();
      if (short) throw new StorageFull();
    },
    async requireForDerived() {
      await refresh();
      if (free < reserved * DERIVED_SHARE) throw new StorageFull();
    },
    async isShort() {
      await refresh();
      return short;
    },
  };
}

/** The disk is full: nobody's upload or file is at fault. */
export class StorageFull extends AppError {
  override name = 'StorageFull';
  constructor(cause?: unknown) {
    const detail = 'The disk of this server is full: try again when there is room';
    super('storage_full', { detail, cause, retryable: true });
  }
}
