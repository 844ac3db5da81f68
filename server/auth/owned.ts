import type { DataSource } from 'typeorm';
import { ApiKey } from '../../core/database/entities/api-key.js';
import { Session } from '../../core/database/entities/session.js';
import { UploadToken } from '../../core/database/entities/upload-token.js';
import { AppError } from '../../core/errors.js';
import type { Owned } from './can.js';

/** The owner of a key, a session or an upload token, for a check by can(). @throws {AppError} not_found */
export async function getOwned(
  database: DataSource,
  kind: typeof ApiKey | typeof Session | typeof UploadToken,
  id: string,
): Promise<Owned & { id: string }> {
  const found = await database.getRepository<ApiKey | Session | UploadToken>(kind).findOneBy({ id });
  if (!found) throw new AppError('not_found');
  return { id, ownerId: found instanceof UploadToken ? found.ownerId : found.userId };
}
