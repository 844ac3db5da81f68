import type { DataSource, EntityManager } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { type Database, queryEntities, queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { isOverdue } from './queries.js';

/* Questions about the partial uploads that final uploads are made of. */

/** A partial upload for a new final upload does not exist, or is somebody else's. */
export class PartialMissing extends AppError {
  override name = 'PartialMissing';
  constructor(readonly partialId: string) {
    super('not_found', { detail: `There is no partial upload ${partialId}` });
  }
}

/** SELECT of the ids of final uploads under way that have to wait for no partial upload any more. */
export const SELECT_READY_FINALS = `
  SELECT final_id FROM concatenations JOIN uploads AS part ON part.id = partial_id
  GROUP BY final_id HAVING bool_and(part.blob_id IS NOT NULL)`;

/** Array of the ids of the partial uploads of the final upload $1. */
export const PARTIALS_OF_FINAL = 'ARRAY(SELECT partial_id FROM concatenations WHERE final_id = $1)';

/** Final uploads that one request finishes at most. The reconciler finishes the others. */
const MAX_AT_ONCE = 10;

/** Final uploads under way that are made of this partial upload and wait for no other one, newest first. */
export async function listReadyFinals(database: DataSource, partialId: string): Promise<string[]> {
  const rows = await queryRows<{ final_id: string }>(
    database,
    `SELECT final_id FROM concatenations JOIN uploads AS part ON part.id = partial_id
     WHERE final_id IN (SELECT final_id FROM concatenations WHERE partial_id = $1)
     GROUP BY final_id HAVING bool_and(part.blob_id IS NOT NULL) ORDER BY final_id DESC LIMIT ${MAX_AT_ONCE}`,
    [partialId],
  );
  return rows.map((row) => row.final_id);
}

/** The partial uploads of a final upload under way, in their order; one that is named twice comes twice. */
export function listPartials(database: Database, finalId: string): Promise<Upload[]> {
  return queryEntities(
    database,
    Upload,
    `SELECT part.* FROM concatenations JOIN uploads AS part ON part.id = partial_id
     WHERE final_id = $1 ORDER BY place`,
    [finalId],
  );
}

/**
 * Locks a final upload and its partial uploads. Other transactions lock them in the same order.
 * @returns as listPartials()
 */
export async function lockPartials(manager: EntityManager, finalId: string): Promise<Upload[]> {
  await queryRows(
    manager,
    `SELECT FROM uploads WHERE id = ANY ($1::uuid || ${PARTIALS_OF_FINAL}) ORDER BY id FOR NO KEY UPDATE`,
    [finalId],
  );
  return listPartials(manager, finalId);
}

/**
 * Finds the partial uploads for a new final upload.
 * @param ids in their order; an id may come several times
 * @throws {PartialMissing}; {AppError} invalid_request when one is not partial; gone when one has ended
 */
export async function findPartials(database: DataSource, ownerId: string, ids: string[]): Promise<Upload[]> {
  const found = await queryEntities(
    database,
    Upload,
    'SELECT * FROM uploads WHERE id = ANY ($1) AND owner_id = $2',
    [ids, ownerId],
  );
  const byId = new Map(found.map((upload) => [upload.id, upload]));
  return ids.map((id) => {
    const upload = byId.get(id);
    if (!upload) throw new PartialMissing(id);
    if (upload.kind !== 'partial') {
      throw new AppError('invalid_request', { detail: `The upload ${id} is not a partial one` });
    }
    if (hasEnded(upload) || isOverdue(upload)) throw partialEnded(id);
    return upload;
  });
}

export function hasEnded({ status }: Upload): boolean {
  return status === 'expired' || status === 'terminated';
}

export function partialEnded(id: string): AppError {
  return new AppError('gone', { detail: `The partial upload ${id} has ended` });
}

/**
 * How many bytes a final upload under way has.
 * @returns undefined while the length of a partial upload is not known, and when there are none: the final upload has become
 * a file, or has ended, since its row was read
 */
export function lengthOf(partials: Pick<Upload, 'length'>[]): number | undefined {
  if (partials.length === 0) return undefined;
  let sum = 0;
  for (const { length } of partials) {
    if (length === null) return undefined;
    sum += length;
  }
  return sum;
}
