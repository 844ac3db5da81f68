import { randomBytes, timingSafeEqual } from 'node:crypto';
import { type DataSource, IsNull } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { ApiKey, type Scope } from '../../core/database/entities/api-key.js';
import { User } from '../../core/database/entities/user.js';
import { countChanged, execute, queryEntities } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { Principal, SignedInActor } from './principal.js';
import { hashSecret, newSecret } from './secrets.js';
import { lockAccount } from './sessions.js';

/*
 * API keys: `lfk_<prefix>_<secret>`. A key is found by its prefix, which users can see, and compared by its
 * hash. The letters `lfk_` let scanners of source code recognise a leaked key.
 */

const KEY = /^(lfk_[0-9a-f]{12})_[\w-]{43}$/;

/** The shortest interval between two updates of the time of last use. */
const LAST_USED_EVERY_SECONDS = 60;

/** Limit of keys for one user; a longer list would be hard to oversee. */
const MAX_KEYS = 100;

export interface NewApiKey {
  name: string;
  scopes: Scope[];
  /** Undefined: never. */
  expiresAt?: Date | undefined;
}

export function isApiKey(bearer: string): boolean {
  return bearer.startsWith('lfk_');
}

/**
 * Creates a key. The key is returned here and stored nowhere.
 * @throws {AppError} wrong_state when there are too many; unauthenticated
 */
export async function createApiKey(
  database: DataSource,
  { name, scopes, expiresAt }: NewApiKey,
  actor: SignedInActor,
): Promise<{ apiKey: ApiKey; key: string }> {
  const prefix = `lfk_${randomBytes(6).toString('hex')}`;
  const key = `${prefix}_${newSecret()}`;
  const { userId } = actor;
  const apiKey = await database.transaction(async (manager) => {
    // The lock also makes parallel requests wait until this key is counted.
    await lockAccount(manager, actor);
    const keys = await manager.countBy(ApiKey, { userId, revokedAt: IsNull() });
    if (keys >= MAX_KEYS) {
      throw new AppError('wrong_state', { detail: `There are ${keys} API keys: revoke one first` });
    }
    const id = uuidv7();
    await manager.insert(ApiKey, {
      id,
      userId,
      name,
      prefix,
      secretHash: hashSecret(key),
      scopes: [...new Set(scopes)],
      expiresAt: expiresAt ?? null,
    });
    const data = { prefix, scopes };
    await appendEvents(manager, [{ type: 'key.created', subjectId: id, ownerId: userId, data, actor }]);
    return manager.findOneByOrFail(ApiKey, { id });
  });
  return { apiKey, key };
}

/** Keys of one user that are not revoked, newest first. */
export async function listApiKeys(database: DataSource, userId: string): Promise<ApiKey[]> {
  return queryEntities(
    database,
    ApiKey,
    'SELECT * FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL ORDER BY id DESC',
    [userId],
  );
}

/** Revokes a key at once. @throws {AppError} not_found when this user has no such key */
export async function revokeApiKey(database: DataSource, id: string, actor: SignedInActor): Promise<void> {
  const { userId } = actor;
  await database.transaction(async (manager) => {
    const revoked = await countChanged(
      manager,
      'UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL',
      [id, userId],
    );
    if (revoked === 0) throw new AppError('not_found');
    await appendEvents(manager, [{ type: 'key.revoked', subjectId: id, ownerId: userId, actor }]);
  });
}

/** Returns the principal of a key. @throws {AppError} unauthenticated */
export async function verifyApiKey(database: DataSource, bearer: string): Promise<Principal> {
  const [, prefix] = KEY.exec(bearer) ?? [];
  const found =
    prefix === undefined
      ? null
      : await database
          .getRepository(ApiKey)
          .createQueryBuilder('k')
          .innerJoinAndMapOne('k.user', User, 'u', 'u.id = k.userId AND u.disabledAt IS NULL')
          .where(
            'k.prefix = :prefix AND k.revokedAt IS NULL AND (k.expiresAt IS NULL OR k.expiresAt > now())',
            { prefix },
          )
          .getOne();
  if (!found || !timingSafeEqual(found.secretHash, hashSecret(bearer))) {
    throw notValid();
  }
  noteUse(database, found);
  const { user } = found as ApiKey & { user: User };
  const { id, userId, scopes, expiresAt } = found;
  return { userId, role: user.role, key: { id, scopes }, ...(expiresAt ? { expiresAt } : {}) };
}

/** @throws {AppError} unauthenticated when a key has been revoked, or has expired */
export async function requireLiveKey(database: DataSource, id: string): Promise<void> {
  const live = await countChanged(
    database,
    'SELECT FROM api_keys WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())',
    [id],
  );
  if (live === 0) throw notValid();
}

function notValid(): AppError {
  return new AppError('unauthenticated', { detail: 'The API key is not valid, or not any more' });
}

/** The request does not wait for this update. */
function noteUse(database: DataSource, { id, lastUsedAt }: ApiKey): void {
  if (lastUsedAt && Date.now() - lastUsedAt.getTime() < LAST_USED_EVERY_SECONDS * 1000) return;
  execute(
    database,
    `UPDATE api_keys SET last_used_at = now()
     WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - $2 * interval '1 second')`,
    [id, LAST_USED_EVERY_SECONDS],
  ).catch(() => {});
}
