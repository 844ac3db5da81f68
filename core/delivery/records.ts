import type { DataSource } from 'typeorm';
import { Blob } from '../database/entities/blob.js';
import { File } from '../database/entities/file.js';
import { execute, queryEntities, queryRows } from '../database/rows.js';
import { appendEvents } from '../events/append.js';
import type { StoredBlob } from '../files/blobs.js';
import type { DeliveredFile } from './template.js';

/*
 * The rows of deliveries. A row is written before anything is copied: it claims the key for the file, so that two files never
 * have the same one. When the copy is there, the row gets its time, together with the event. An attempt after a crash finds
 * the row without a time, and knows the key that the attempt before it has used.
 */

/** A key of a destination that belongs to a file. */
export interface DeliveryRow {
  fileId: string;
  /** The target as it was written. */
  target: string;
  /** The store and bucket, or the folder. */
  place: string;
  /** In the place. */
  key: string;
  /** What an attempt may have left unfinished. */
  unfinished: string | null;
  /** Null: not there yet. */
  deliveredAt: Date | null;
}

/** What is needed to deliver a file. */
export interface FileToDeliver {
  file: DeliveredFile;
  blob: StoredBlob;
  /** The target that a hook has chosen; null: none. */
  deliverTo: string | null;
}

/** A delivery as the API shows it. */
export interface StoredDelivery {
  fileId: string;
  /** The name of the destination. */
  destination: string;
  address: string;
  deliveredAt: Date;
}

const ROW = `file_id AS "fileId", target, place, key, unfinished, delivered_at AS "deliveredAt"`;

/** @returns undefined: there is no such file any more */
export async function findToDeliver(database: DataSource, id: string): Promise<FileToDeliver | undefined> {
  const [row] = await queryEntities(database, File, 'SELECT * FROM files WHERE id = $1', [id]);
  const [upload] = await queryRows<{ metadata: DeliveredFile['metadata'] }>(
    database,
    'SELECT metadata FROM uploads WHERE id = $1',
    [id],
  );
  if (!row) return undefined;
  const { ownerId, filename, detectedType, createdAt, sha256, deliverTo } = row;
  if (sha256 === null) throw new Error(`file ${id} is to be delivered before its SHA-256 is known`);
  const type = detectedType ?? 'application/octet-stream';
  return {
    file: { id, ownerId, filename, type, createdAt, sha256, metadata: upload?.metadata ?? {} },
    blob: await database.getRepository(Blob).findOneByOrFail({ id: row.blobId }),
    deliverTo,
  };
}

/** The row of a file for this target at this place, the oldest if there are several. */
export async function findDelivery(
  database: DataSource,
  { fileId, target, place }: Pick<DeliveryRow, 'fileId' | 'target' | 'place'>,
): Promise<DeliveryRow | undefined> {
  const [row] = await queryRows<DeliveryRow>(
    database,
    `SELECT ${ROW} FROM file_deliveries WHERE file_id = $1 AND target = $2 AND place = $3 ORDER BY claimed_at LIMIT 1`,
    [fileId, target, place],
  );
  return row;
}

/** Claims a key for a file. @returns the row; undefined: the key belongs to another file, or the file is gone */
export async function claimKey(
  database: DataSource,
  claim: Pick<DeliveryRow, 'fileId' | 'target' | 'place' | 'key'> & { destination: string; address: string },
): Promise<DeliveryRow | undefined> {
  const { fileId, target, place, key, destination, address } = claim;
  await execute(
    database,
    `INSERT INTO file_deliveries (place, key, file_id, target, destination, address)
     SELECT $1, $2, id, $4, $5, $6 FROM files WHERE id = $3
     ON CONFLICT (place, key) DO NOTHING`,
    [place, key, fileId, target, destination, address],
  );
  const [row] = await queryRows<DeliveryRow>(
    database,
    `SELECT ${ROW} FROM file_deliveries WHERE place = $1 AND key = $2 AND file_id = $3`,
    [place, key, fileId],
  );
  return row;
}

/** Gives a claim back: something else is at this key. */
export async function giveUpKey(database: DataSource, { place, key, fileId }: DeliveryRow): Promise<void> {
  await execute(
    database,
    'DELETE FROM file_deliveries WHERE place = $1 AND key = $2 AND file_id = $3 AND delivered_at IS NULL',
    [place, key, fileId],
  );
}

/** Records the name of what an attempt begins. */
export async function noteUnfinished(
  database: DataSource,
  { place, key, fileId }: DeliveryRow,
  unfinished: string,
): Promise<void> {
  await execute(
    database,
    'UPDATE file_deliveries SET unfinished = $4 WHERE place = $1 AND key = $2 AND file_id = $3',
    [place, key, fileId, unfinished],
  );
}

/** Records that a file is delivered, with the event. Does nothing if that is recorded already. */
export async function recordDelivered(
  database: DataSource,
  { place, key, fileId }: DeliveryRow,
  { ownerId, size }: { ownerId: string; size: number },
): Promise<void> {
  await database.transaction(async (manager) => {
    const [row] = await queryRows<{ destination: string }>(
      manager,
      `UPDATE file_deliveries SET delivered_at = now(), unfinished = NULL
       WHERE place = $1 AND key = $2 AND file_id = $3 AND delivered_at IS NULL RETURNING destination`,
      [place, key, fileId],
    );
    if (!row) return;
    const data = { destination: row.destination, key, size };
    await appendEvents(manager, [{ type: 'file.delivered', subjectId: fileId, ownerId, data }]);
  });
}

/** The deliveries of many files at once, in their order. */
export async function listDeliveries(database: DataSource, fileIds: string[]): Promise<StoredDelivery[]> {
  return queryRows(
    database,
    `SELECT file_id AS "fileId", destination, address, delivered_at AS "deliveredAt" FROM file_deliveries
     WHERE file_id = ANY ($1) AND delivered_at IS NOT NULL ORDER BY delivered_at, key`,
    [fileIds],
  );
}
