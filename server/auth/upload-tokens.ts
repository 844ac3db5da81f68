import type { KeyObject } from 'node:crypto';
import jwt from 'jsonwebtoken';
import type { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import { Upload } from '../../core/database/entities/upload.js';
import { UploadToken } from '../../core/database/entities/upload-token.js';
import { User } from '../../core/database/entities/user.js';
import { countChanged, queryEntities, queryRows } from '../../core/database/rows.js';
import { AppError } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import { terminateUploadOf } from '../../core/uploads/end.js';
import { mapTokensToUploads } from '../../core/uploads/queries.js';
import type { Principal, SignedInActor } from './principal.js';
import { lockAccount } from './sessions.js';

/*
 * Upload tokens: `lfu_<JWT>`. Somebody without an account uses one to send one file into the account of its
 * creator. The database holds the limits of a token; the signature keeps guesses away from the database. A
 * token can begin one upload until it expires. It may continue that upload even after its expiry, until it is
 * revoked. If the file is refused for its type, the token may begin another upload.
 */

const PREFIX = 'lfu_';

/** Condition for a token that may begin an upload. */
const LIVE = 'used_at IS NULL AND revoked_at IS NULL AND expires_at > now()';

/** Limit of live tokens for one user. A list shows as many, so that none stays hidden. */
const MAX_LIVE = 1000;

const claims = z.object({ jti: z.uuid() });

export interface NewUploadToken {
  label?: string | undefined;
  /** Bytes. */
  maxSize?: number | undefined;
  /** Media types such as `image/*` or `application/pdf`. */
  types?: string[] | undefined;
  expiresAt: Date;
}

export function isUploadToken(bearer: string): boolean {
  return bearer.startsWith(PREFIX);
}

/**
 * Creates an upload token. The token is returned here and stored nowhere.
 * @throws {AppError} wrong_state when there are too many; unauthenticated
 */
export async function createUploadToken(
  database: DataSource,
  key: KeyObject,
  { label, maxSize, types, expiresAt }: NewUploadToken,
  actor: SignedInActor,
): Promise<{ uploadToken: UploadToken; token: string }> {
  const { userId } = actor;
  const uploadToken = await database.transaction(async (manager) => {
    // The lock also makes parallel requests wait until this token is counted.
    await lockAccount(manager, actor);
    const [row] = await queryRows<{ live: number }>(
      manager,
      `SELECT count(*)::integer AS live FROM upload_tokens WHERE owner_id = $1 AND ${LIVE}`,
      [userId],
    );
    const live = row?.live ?? 0;
    if (live >= MAX_LIVE) {
      throw new AppError('wrong_state', {
        detail: `${live} upload tokens wait to be used: revoke some first`,
      });
    }
    const id = uuidv7();
    await manager.insert(UploadToken, {
      id,
      ownerId: userId,
      label: label ?? null,
      maxSize: maxSize ?? null,
      types: types ?? null,
      expiresAt,
    });
    await appendEvents(manager, [{ type: 'upload_token.created', subjectId: id, ownerId: userId, actor }]);
    return manager.findOneByOrFail(UploadToken, { id });
  });
  // No `exp`: an upload that began in time may continue.
  const token = PREFIX + jwt.sign({}, key, { algorithm: 'HS256', jwtid: uploadToken.id });
  return { uploadToken, token };
}

/**
 * Upload tokens of one user that are not revoked, with the id of the upload that each one began. Tokens that
 * can still begin an upload come first, then the newest; at most 1000.
 */
export async function listUploadTokens(
  database: DataSource,
  ownerId: string,
): Promise<(UploadToken & { uploadId: string | null })[]> {
  const tokens = await queryEntities(
    database,
    UploadToken,
    `SELECT * FROM upload_tokens WHERE owner_id = $1 AND revoked_at IS NULL
     ORDER BY (${LIVE}) DESC, id DESC LIMIT $2`,
    [ownerId, MAX_LIVE],
  );
  const uploadOf = await mapTokensToUploads(
    database,
    tokens.map((token) => token.id),
  );
  return tokens.map((token) => Object.assign(token, { uploadId: uploadOf.get(token.id) ?? null }));
}

/**
 * Revokes an upload token. Its unfinished upload is ended: a request that is sending bytes is cut off, the
 * quota is given back, and the reconciler deletes the bytes.
 * @throws {AppError} not_found
 */
export async function revokeUploadToken(
  database: DataSource,
  id: string,
  actor: SignedInActor,
): Promise<void> {
  const { userId } = actor;
  await database.transaction(async (manager) => {
    const revoked = await countChanged(
      manager,
      'UPDATE upload_tokens SET revoked_at = now() WHERE id = $1 AND owner_id = $2 AND revoked_at IS NULL',
      [id, userId],
    );
    if (revoked === 0) throw new AppError('not_found');
    await terminateUploadOf(manager, id, actor);
    await appendEvents(manager, [{ type: 'upload_token.revoked', subjectId: id, ownerId: userId, actor }]);
  });
}

/**
 * Returns the principal of an upload token. createUpload() decides whether the token may still begin an
 * upload.
 * @throws {AppError} unauthenticated
 */
export async function verifyUploadToken(
  database: DataSource,
  key: KeyObject,
  bearer: string,
): Promise<Principal> {
  const id = readId(bearer, key);
  const found = await database
    .getRepository(UploadToken)
    .createQueryBuilder('t')
    .innerJoinAndMapOne('t.owner', User, 'u', 'u.id = t.ownerId AND u.disabledAt IS NULL')
    .where('t.id = :id AND t.revokedAt IS NULL', { id })
    .getOne();
  if (!found) throw notValid();
  const isOver = found.usedAt === null && found.expiresAt < new Date();
  // The token was given back after its file was refused, and its sender may still read that.
  if (isOver && !(await database.getRepository(Upload).existsBy({ uploadTokenId: id }))) throw notValid();
  const { owner } = found as UploadToken & { owner: User };
  return { userId: found.ownerId, role: owner.role, uploadToken: found };
}

function readId(bearer: string, key: KeyObject): string {
  try {
    return claims.parse(jwt.verify(bearer.slice(PREFIX.length), key, { algorithms: ['HS256'] })).jti;
  } catch (error) {
    throw notValid(error);
  }
}

function notValid(cause?: unknown): AppError {
  return new AppError('unauthenticated', { detail: 'The upload token is not valid, or not any more', cause });
}
