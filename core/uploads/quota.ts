import type { DataSource, EntityManager } from 'typeorm';
import { type Quota, UNLIMITED } from '../config.js';
import { User } from '../database/entities/user.js';
import { type Database, execute, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { LeaseLost } from './errors.js';
import type { Lease } from './lease.js';

/*
 * How much one user may hold. `used_bytes` and `used_files` of the user's row count the files outside the trash and the
 * room that uploads under way have reserved. An upload reserves its length in the statement that creates it, so that
 * concurrent creations cannot exceed the quota. While the length is not known, room is reserved as the bytes arrive.
 * `uploads.reserved_bytes` is the room that one upload has reserved. It is given back when the upload ends without a
 * file; otherwise the file's size is given back when the file is deleted. So at every moment, for every user,
 *
 *   used_bytes = sum(reserved_bytes) of uploads 'uploading' + sum(size) of files outside the trash
 *
 * and used_files is the number of these files, and of these uploads apart from partial ones. A final upload reserves
 * nothing: its partial uploads have reserved its bytes, and concatenate.ts moves that room to its file. A file whose processing failed, or that is infected, still
 * has its bytes and counts until it is deleted. A transaction that changes one side changes the other side too.
 *
 * A transaction that locks rows of several tables locks them in this order, to avoid deadlocks: upload_tokens, uploads,
 * files, derivatives, variants, the bytes of an owner (files/duplicates.ts), blobs, users, sessions. New rows (events, keys, upload
 * tokens) can be written at any time, because no other transaction waits for them. Several rows of users are locked in the
 * order of their ids. Several rows of uploads are locked in the order of their ids, with SKIP LOCKED, or where nothing
 * else is locked after them.
 */

/** Bytes that an upload without a length reserves at a time when there is plenty of room. */
const STEP = 16 * 1024 ** 2;

/** It reserves at most this fraction (1/8) of the free room ahead: other uploads of the owner need room too. */
const SHARE = 8;

/**
 * SQL condition on a row of `users`: the user has room for this many more files and bytes. A user whose limit is 0
 * bytes has no room even for an empty file.
 * @param parameters of the statement: bytes and files wanted, default for bytes, default for files
 */
export function hasRoom(parameters: {
  bytes: string;
  files: string;
  quotaBytes: string;
  quotaFiles: string;
}): string {
  const { bytes, files, quotaBytes, quotaFiles } = parameters;
  const maxBytes = `coalesce(max_bytes, ${quotaBytes}::bigint)`;
  const maxFiles = `coalesce(max_files, ${quotaFiles}::bigint)`;
  return `(${maxBytes} < 0 OR (${maxBytes} > 0 AND used_bytes + ${bytes} <= ${maxBytes}))
          AND (${maxFiles} < 0 OR used_files + ${files} <= ${maxFiles})`;
}

/** The limits of this user: the user's own, or else the defaults. */
export function quotaOf(user: User, defaults: Quota): Quota {
  return { bytes: user.maxBytes ?? defaults.bytes, files: user.maxFiles ?? defaults.files };
}

/** The error for a user without room for a file. @param bytes its size; null: not known, but more than there is room */
export function quotaExceeded(user: User, defaults: Quota, bytes: number | null): AppError {
  const quota = quotaOf(user, defaults);
  if (quota.bytes === 0 || quota.files === 0) {
    return new AppError('quota_exceeded', {
      detail: 'This account may hold no files: ask an admin for room',
    });
  }
  const isShort = quota.bytes !== UNLIMITED && (bytes === null || user.usedBytes + bytes > quota.bytes);
  const used =
    isShort || quota.files === UNLIMITED
      ? `${user.usedBytes} of ${quota.bytes} bytes are in use`
      : `${user.usedFiles} of ${quota.files} files are in use`;
  const wanted = isShort && bytes !== null ? `, and this upload has ${bytes}` : '';
  return new AppError('quota_exceeded', { detail: `${used}${wanted}: delete something first` });
}

/** Gives back the room of one file or upload. Part of the caller's transaction. @param bytes that it counted */
export async function releaseQuota(manager: EntityManager, ownerId: string, bytes: number): Promise<void> {
  await execute(
    manager,
    'UPDATE users SET used_bytes = used_bytes - $2, used_files = used_files - 1 WHERE id = $1',
    [ownerId, bytes],
  );
}

/** The room that an upload under way is to have reserved. */
interface Room {
  /** Bytes; null: up to its offset. */
  target: number | null;
  /** Bytes to reserve beyond `target`, as far as that leaves room for other uploads. */
  ahead?: number;
}

/**
 * Changes the reservation of an upload whose length is not known. Reserving less always succeeds; reserving more
 * succeeds as far as the quota allows.
 * @param manager may be in a transaction
 * @returns bytes that are reserved then
 * @throws {LeaseLost}
 */
export async function reserve(
  manager: EntityManager,
  quota: Quota,
  { id, epoch }: Pick<Lease, 'id' | 'epoch'>,
  { target, ahead = 0 }: Room,
): Promise<number> {
  return manager.transaction(async (inner) => {
    // Lock the rows in a separate statement. If another transaction changed a row after the statement began, a
    // statement that locks and changes the row locks it twice, and can deadlock between the two.
    await execute(
      inner,
      `SELECT FROM uploads JOIN users ON users.id = owner_id WHERE uploads.id = $1 FOR NO KEY UPDATE`,
      [id],
    );
    const [changed] = await queryRows<{ reserved_bytes: string }>(
      inner,
      `WITH mine AS (
         SELECT uploads.id, owner_id,
           coalesce($3::bigint, "offset") - reserved_bytes AS wanted,
           CASE WHEN coalesce(max_bytes, $5::bigint) < 0 THEN ${Number.MAX_SAFE_INTEGER}
                ELSE greatest(coalesce(max_bytes, $5::bigint) - used_bytes, 0) END AS room
         FROM uploads JOIN users ON users.id = owner_id
         WHERE uploads.id = $1 AND lease_epoch = $2 AND status = 'uploading' AND length IS NULL
       ), more AS (
         SELECT id, owner_id, least(wanted + least($4::bigint, room / ${SHARE}), room) AS bytes FROM mine
       ), owner AS (
         UPDATE users SET used_bytes = used_bytes + bytes FROM more WHERE users.id = owner_id AND bytes <> 0
       ), changed AS (
         UPDATE uploads SET reserved_bytes = reserved_bytes + bytes FROM more WHERE uploads.id = more.id
         RETURNING reserved_bytes
       )
       SELECT reserved_bytes FROM changed`,
      [id, epoch, target, ahead, quota.bytes],
    );
    if (!changed) throw new LeaseLost();
    return Number(changed.reserved_bytes);
  });
}

/** The room that an upload of unknown length has reserved, for the bytes of one request. */
export interface Reservation {
  /** How many bytes of this request have room. */
  bytes(): number;
  /**
   * Reserves room for more bytes, as far as the quota allows.
   * @param bytes of this request
   * @returns how many bytes of this request have room then
   * @throws {LeaseLost}
   */
  extend(bytes: number): Promise<number>;
  /** The error for bytes that have no room. */
  exceeded(): Promise<AppError>;
}

/** @param lease its upload's length is not known */
export function openReservation(
  { database, quota }: { database: DataSource; quota: Quota },
  lease: Lease,
): Reservation {
  const { offset, ownerId } = lease.upload;
  let reserved = lease.upload.reservedBytes;
  return {
    bytes: () => reserved - offset,
    async extend(bytes) {
      reserved = await reserve(database.manager, quota, lease, { target: offset + bytes, ahead: STEP });
      return reserved - offset;
    },
    exceeded: () => quotaExceededBy(database, quota, ownerId, null),
  };
}

/** As quotaExceeded, but reads the user's row first. */
export async function quotaExceededBy(
  database: Database,
  quota: Quota,
  userId: string,
  bytes: number | null,
): Promise<AppError> {
  return quotaExceeded(await database.getRepository(User).findOneByOrFail({ id: userId }), quota, bytes);
}
