import type { DataSource, EntityManager } from 'typeorm';
import { within } from '../concurrency.js';
import type { Quota } from '../config.js';
import type { Actor } from '../database/entities/event.js';
import { Upload } from '../database/entities/upload.js';
import { User } from '../database/entities/user.js';
import { isConflict, isDatabaseAway } from '../database/outage.js';
import { countChanged, execute } from '../database/rows.js';
import { AppError } from '../errors.js';
import { mayBeAllowed } from '../media/allowed.js';
import { typeNotAllowed } from '../media/media-types.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Storage } from '../storage/storage.js';
import { type Description, interpretMetadata } from './description.js';
import { endRefusedUploadOf } from './end.js';
import type { UploadHooks } from './hooks.js';
import { insertRows } from './insert.js';
import { quotaExceeded } from './quota.js';
import { requireAllowedLength, type SizeLimits } from './size-limits.js';

/*
 * The rows of new uploads, and the room that they reserve.
 *
 * Each creation changes the row of its owner. Creations of one owner would therefore wait for each other in the
 * database, each on its own connection. Instead they wait here: while one statement of an owner runs, further
 * creations of that owner are gathered and written together by the next statement. If they do not all fit the
 * quota, or one of them is wrong, the batch is split in halves, which are tried one after the other. When a
 * statement is not answered for a while, the next one starts without waiting for it.
 */

export interface CreationDeps extends SizeLimits {
  database: DataSource;
  storage: Pick<Storage, 'room'>;
  /** Hours without an append after which an unfinished upload expires. */
  uploadExpiryHours: number;
  /** Of users who have none of their own. */
  quota: Quota;
  hooks?: UploadHooks | undefined;
  metrics?: Pick<Metrics, 'uploadRefused' | 'bytesStored' | 'receiving'> | undefined;
}

export interface NewUpload extends Description {
  /** UUIDv7. */
  id: string;
  ownerId: string;
  /** Bytes; null if not known yet. */
  length: number | null;
  /** Whether the client will send the bytes to the store itself; see direct.ts. */
  direct?: boolean;
  /** Its role in a concatenation; undefined: none, it becomes a file by itself. */
  concat?: Concat | undefined;
  /** The process that will write at once and therefore gets the first lease; null: no process. */
  leaseHolder: string | null;
  actor: Actor;
  /** Where a hook wants its file to be delivered; undefined: where files of its type are. */
  deliverTo?: string | undefined;
  /** The upload token that allows this upload, with its limits; undefined: the owner creates it. */
  token?: { id: string; maxSize: number | null; types: string[] | null } | undefined;
}

/** A new upload whose owner may be unknown: a hook then names the owner. */
export type Creation = Omit<NewUpload, 'ownerId'> & { ownerId: string | null };

/** The role of an upload in a concatenation; see concatenate.ts. */
export type Concat =
  | { kind: 'partial' }
  | {
      kind: 'final';
      /** In the order of their bytes; an id may come several times. */
      partialIds: string[];
      /** Upload-Concat as it came. */
      header: string;
      /** Bytes of the partial uploads together; undefined: not known yet. */
      length?: number | undefined;
    };

interface Waiting {
  upload: NewUpload;
  resolve(row: Upload): void;
  reject(error: unknown): void;
}

/** Uploads in one statement. */
const MAX_TOGETHER = 100;

/** How long others wait for one statement, in milliseconds. */
const PATIENCE_MS = 500;

/** Waiting creations by owner. An owner has a list while one of the owner's statements runs. */
const lists = new WeakMap<DataSource, Map<string, Waiting[]>>();

/**
 * Writes the row and the event of a new upload and reserves room for it. The row holds a lease of epoch 1 for
 * `leaseHolder`.
 * @throws {AppError} as prepareCreation(); unauthenticated when there is no such owner (any more), or when the token was
 * used before; quota_exceeded; forbidden, too_large, type_not_allowed by the limits of the token
 */
export function createUpload(deps: CreationDeps, creation: Creation): Promise<Upload> {
  return countRefusal(deps, () => createAllowed(deps, creation));
}

/** Counts a creation that is refused. @throws what `create` throws */
export async function countRefusal<T>({ metrics }: CreationDeps, create: () => Promise<T>): Promise<T> {
  try {
    return await create();
  } catch (error) {
    if (error instanceof AppError && error.status < 500) metrics?.uploadRefused();
    throw error;
  }
}

/** @throws as createUpload() */
async function createAllowed(deps: CreationDeps, creation: Creation): Promise<Upload> {
  const upload = await prepareCreation(deps, creation);
  const { token } = upload;
  if (!token) return insertUpload(deps, upload);
  checkLimits(token, upload);
  return deps.database.transaction(async (manager) => {
    const claimed = await countChanged(
      manager,
      `UPDATE upload_tokens SET used_at = now()
       WHERE id = $1 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > now()`,
      [token.id],
    );
    if (claimed === 0) {
      throw new AppError('unauthenticated', {
        detail: 'The upload token was used before, or is not valid any more',
      });
    }
    await endRefusedUploadOf(manager, token.id, upload.actor);
    return insertAlone(deps, manager, upload);
  });
}

/**
 * Checks a new upload and asks the hook about it.
 * @returns the upload with the hook's changes
 * @throws {AppError} unauthenticated when nobody owns it; too_large; storage_full; forbidden for a concatenation by an upload
 * token; hook_unusable; {UploadRefused} by a hook; {HookSilent}
 */
export async function prepareCreation(deps: CreationDeps, creation: Creation): Promise<NewUpload> {
  const { concat } = creation;
  requireLength(deps, creation);
  if (concat) refuseToken(creation.token);
  // A final upload stores nothing.
  if (concat?.kind !== 'final') await deps.storage.room?.require();
  const { description, ownerId, deliverTo } = (await deps.hooks?.beforeCreate?.(creation)) ?? {};
  const owner = creation.ownerId ?? ownerId;
  if (!owner) {
    throw new AppError('unauthenticated', { detail: 'Sign in: the hook of this server names no owner' });
  }
  const actor = creation.ownerId ? creation.actor : { ...creation.actor, userId: owner };
  const upload = { ...creation, ...description, ownerId: owner, actor, deliverTo };
  // The hook may have changed the type.
  if (description) requireLength(deps, upload);
  return upload;
}

/** @throws {AppError} too_large */
function requireLength(
  deps: CreationDeps,
  { length, metadata }: Pick<Creation, 'length' | 'metadata'>,
): void {
  if (length !== null) requireAllowedLength(deps, length, interpretMetadata(metadata).declaredType);
}

/** Refuses a concatenation by an upload token. @throws {AppError} forbidden */
export function refuseToken(token: NewUpload['token']): void {
  if (!token) return;
  const detail = 'An upload token allows one upload: it can neither be partial nor made of partial uploads';
  throw new AppError('forbidden', { detail });
}

/** Writes the row of a final upload, and which partial uploads it is made of. @throws as insertAlone() */
export function insertFinal(deps: CreationDeps, upload: NewUpload, partialIds: string[]): Promise<Upload> {
  return deps.database.transaction(async (manager) => {
    const row = await insertAlone(deps, manager, upload);
    await execute(
      manager,
      `INSERT INTO concatenations (final_id, place, partial_id)
       SELECT $1, place, partial_id FROM unnest($2::uuid[]) WITH ORDINALITY AS part (partial_id, place)`,
      [row.id, partialIds],
    );
    return row;
  });
}

function checkLimits(
  { maxSize, types }: NonNullable<NewUpload['token']>,
  { length, metadata }: NewUpload,
): void {
  if (maxSize !== null && length !== null && length > maxSize) {
    throw new AppError('too_large', { detail: `This upload token takes at most ${maxSize} bytes` });
  }
  const { declaredType } = interpretMetadata(metadata);
  if (types && declaredType && !mayBeAllowed(declaredType, types)) throw typeNotAllowed(types);
}

/**
 * Writes the row of a new upload, with its event, together with others of its owner that come at the same time.
 * @throws {AppError} unauthenticated, quota_exceeded
 */
function insertUpload(deps: CreationDeps, upload: NewUpload): Promise<Upload> {
  const byOwner = lists.get(deps.database) ?? new Map<string, Waiting[]>();
  lists.set(deps.database, byOwner);
  return new Promise((resolve, reject) => {
    const one = { upload, resolve, reject };
    const list = byOwner.get(upload.ownerId);
    if (list) list.push(one);
    else void insertAll(deps, byOwner, one);
  });
}

/** Inserts the first upload, then those that arrived meanwhile, until none are left. Never throws. */
async function insertAll(deps: CreationDeps, byOwner: Map<string, Waiting[]>, first: Waiting): Promise<void> {
  const { ownerId } = first.upload;
  const list: Waiting[] = [];
  byOwner.set(ownerId, list);
  for (let batch = [first]; batch.length > 0; batch = list.splice(0, MAX_TOGETHER)) {
    await within(PATIENCE_MS, insertTogether(deps, batch), 'creation').catch(() => {});
  }
  byOwner.delete(ownerId);
}

/**
 * Inserts a batch. If that fails, splits it in halves, one statement at a time, until the upload at fault is alone.
 * Never throws.
 */
async function insertTogether(deps: CreationDeps, batch: Waiting[]): Promise<void> {
  const { manager } = deps.database;
  const [first] = batch;
  if (first && batch.length === 1) {
    return insertAlone(deps, manager, first.upload).then(first.resolve, first.reject);
  }
  const uploads = batch.map(({ upload }) => upload);
  const outcome = await insertRows(deps, manager, uploads).catch((error: unknown) => ({ error }));
  if ('error' in outcome && (isDatabaseAway(outcome.error) || isConflict(outcome.error))) {
    // No upload is at fault, and each further statement would have to wait as long.
    for (const { reject } of batch) reject(outcome.error);
    return;
  }
  const rows = 'error' in outcome ? [] : outcome;
  if (rows.length > 0) {
    const byId = new Map(rows.map((row) => [row.id, row]));
    for (const { upload, resolve } of batch) resolve(byId.get(upload.id) as Upload);
    return;
  }
  const middle = Math.ceil(batch.length / 2);
  await insertTogether(deps, batch.slice(0, middle));
  await insertTogether(deps, batch.slice(middle));
}

/**
 * Writes the row of one new upload, in the caller's transaction if it has one.
 * @throws {AppError} unauthenticated, quota_exceeded
 */
async function insertAlone(deps: CreationDeps, manager: EntityManager, upload: NewUpload): Promise<Upload> {
  const [row] = await insertRows(deps, manager, [upload]);
  if (row) return row;
  const owner = await manager.getRepository(User).findOneBy({ id: upload.ownerId });
  if (!owner) throw new AppError('unauthenticated', { detail: 'This account does not exist any more' });
  if (owner.disabledAt) throw new AppError('unauthenticated', { detail: 'This account is disabled' });
  throw quotaExceeded(owner, deps.quota, upload.length ?? 0);
}
