import type { DataSource, EntityManager } from 'typeorm';
import { type Quota, UNLIMITED } from '../config.js';
import type { Upload } from '../database/entities/upload.js';
import { User } from '../database/entities/user.js';
import { AppError } from '../errors.js';

/*
 * How much one user may hold. `used_bytes` and `used_files` of the user's row count what lies outside the trash and
 * what uploads under way may still bring: an upload reserves its length, in the statement that creates it, so that any
 * number of creations at once come out right. Where the length is not known yet, room is reserved as the bytes come.
 * `uploads.reserved_bytes` says how much of it an upload has; it is given back when the upload ends without a file, and
 * with the file when that is deleted. So at every moment, for every user,
 *
 *   used_bytes = sum(reserved_bytes) of uploads 'uploading' + sum(size) of files outside the trash
 *
 * and used_files is how many these are. A file whose processing has failed, or that was found infected, still has its
 * bytes and counts until it is deleted. Whatever changes one side changes the other in the same transaction.
 *
 * Who locks rows of several tables takes them in this order, so that nobody waits in a circle: upload_tokens, uploads,
 * files, derivatives, blobs, users, sessions. Rows that are new (events, keys, upload tokens) can be written at any time:
 * nobody waits for them. Several rows of users are locked in the order of their ids; of uploads, with SKIP LOCKED or where
 * nothing else is locked after them.
 */

/** Bytes that an upload without a length reserves at a time where there is plenty of room. */
const STEP = 16 * 1024 ** 2;

/** Which part of the room it takes at most where there is not: others, too, want to go on. */
const SHARE = 8;

/**
 * Condition on a row of `users`: it has room for so many more files with so many bytes together. Whose limit is 0 bytes
 * has none even for an empty file.
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

/** What holds for this user. */
export function quotaOf(user: User, defaults: Quota): Quota {
  return { bytes: user.maxBytes ?? defaults.bytes, files: user.maxFiles ?? defaults.files };
}

/** Why a user has no room for a file of so many bytes. @param bytes null: as many as there is room for, and more */
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

/** Gives back what one file or upload counted. Part of the caller's transaction. @param bytes of it */
export async function releaseQuota(manager: EntityManager, ownerId: string, bytes: number): Promise<void> {
  await manager.query(
    'UPDATE users SET used_bytes = used_bytes - $2, used_files = used_files - 1 WHERE id = $1',
    [ownerId, bytes],
  );
}

/** How much an upload under way is to have reserved. */
interface Reservation {
  /** Bytes; null: up to its offset. */
  target: number | null;
  /** Bytes beyond it that are welcome, as far as they leave room for others. */
  ahead?: number;
}

/**
 * Sets how much an upload whose length is not known has reserved: less than it has always, more as far as the quota goes.
 * @param manager may be in a transaction
 * @returns bytes that it has then
 * @throws {AppError} locked
 */
export async function reserve(
  manager: EntityManager,
  quota: Quota,
  id: string,
  epoch: number,
  { target, ahead = 0 }: Reservation,
): Promise<number> {
  return manager.transaction(async (inner) => {
    // A statement of its own: one that locks a row and then changes it asks for it twice if somebody else has changed
    // it since the statement began, and may wait in between for one that waits for it.
    await inner.query(
      `SELECT FROM uploads JOIN users ON users.id = owner_id WHERE uploads.id = $1 FOR NO KEY UPDATE`,
      [id],
    );
    const [changed]: { reserved_bytes: string }[] = await inner.query(
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
    if (!changed) {
      throw new AppError('locked', { detail: 'Another request has taken over this upload', retryable: true });
    }
    return Number(changed.reserved_bytes);
  });
}

/**
 * What `source` yields, as far as the quota of the upload's owner goes: room is reserved as it comes.
 * @throws {AppError} quota_exceeded after the last byte that fits; locked
 */
export async function* withinQuota(
  { database, quota }: { database: DataSource; quota: Quota },
  upload: Upload,
  epoch: number,
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let reserved = upload.reservedBytes;
  let offset = upload.offset;
  for await (const chunk of source) {
    const end = offset + chunk.byteLength;
    if (end > reserved) {
      reserved = await reserve(database.manager, quota, upload.id, epoch, { target: end, ahead: STEP });
    }
    if (end > reserved) {
      if (reserved > offset) yield chunk.subarray(0, reserved - offset);
      throw await quotaExceededBy(database, quota, upload.ownerId, null);
    }
    offset = end;
    yield chunk;
  }
}

/** As quotaExceeded, of a user who is to be looked up. */
export async function quotaExceededBy(
  database: DataSource,
  quota: Quota,
  userId: string,
  bytes: number | null,
): Promise<AppError> {
  return quotaExceeded(await database.getRepository(User).findOneByOrFail({ id: userId }), quota, bytes);
}

/** Files that are found in the trash at a time. */
const TRASH_BATCH = 1000;

/** More than any transaction lasts: what was deleted in one that began so long ago can be seen. */
const SLACK = `interval '10 minutes'`;

/** Owners whose trash is looked at together. */
const OWNERS_BATCH = 100;

/**
 * Owners whose trash may hold more than before, or too much for a quota that was set since, in batches.
 * @param since a time of the database; undefined: all who have anything in the trash
 */
export async function* listTrashOwners(
  database: DataSource,
  since: string | undefined,
): AsyncGenerator<string[]> {
  const owners =
    since === undefined
      ? 'SELECT owner_id AS id FROM files WHERE deleted_at IS NOT NULL AND $1::text IS NULL'
      : `SELECT owner_id AS id FROM files WHERE deleted_at >= $1::timestamptz - ${SLACK}
         UNION ALL SELECT id FROM users WHERE quota_changed_at >= $1::timestamptz - ${SLACK}`;
  let after: string | null = null;
  do {
    const found: { id: string }[] = await database.query(
      `SELECT DISTINCT id FROM (${owners}) AS owner WHERE $2::uuid IS NULL OR id > $2 ORDER BY id
       LIMIT ${OWNERS_BATCH}`,
      [since ?? null, after],
    );
    if (found.length > 0) yield found.map(({ id }) => id);
    after = found.length === OWNERS_BATCH ? (found.at(-1)?.id ?? null) : null;
  } while (after !== null);
}

/**
 * Uploads whose files lie in the trash beyond what it may hold: as much again as the quota, the newest first.
 * @param owners whose trash is looked at
 * @returns ids, in batches; each batch has to be gone when the next one is asked for
 */
export async function* listTrashBeyondQuota(
  database: DataSource,
  quota: Quota,
  owners: string[],
): AsyncGenerator<string[]> {
  let found: { id: string }[];
  do {
    found = await database.query(
      `SELECT trash.id
       FROM users, LATERAL (
         SELECT coalesce(max_bytes, $1::bigint) AS bytes, coalesce(max_files, $2::bigint) AS files
       ) AS most, LATERAL (
         SELECT id, sum(size) OVER newest AS bytes, row_number() OVER newest AS files
         FROM files WHERE owner_id = users.id AND deleted_at IS NOT NULL
         WINDOW newest AS (ORDER BY deleted_at DESC, id DESC)
       ) AS trash
       WHERE users.id = ANY ($3)
         AND ((most.bytes >= 0 AND trash.bytes > most.bytes) OR (most.files >= 0 AND trash.files > most.files))
       LIMIT ${TRASH_BATCH}`,
      [quota.bytes, quota.files, owners],
    );
    if (found.length > 0) yield found.map(({ id }) => id);
  } while (found.length === TRASH_BATCH);
}
