import type { DataSource } from 'typeorm';
import { countChanged, execute, queryRows } from '../database/rows.js';
import { deleteUnreferencedBlobs, releaseBlobs } from '../files/blobs.js';
import { IS_DUE, workThrough } from '../retries.js';
import type { Storage, StoredUpload } from '../storage/storage.js';
import { SELECT_READY_FINALS } from './concatenations.js';
import { FORGET_DESCRIPTION } from './description.js';

/*
 * The reconciler's part of the ledger: it finds uploads that were left half done, and deletes what ended uploads have left in the store.
 */

/**
 * Ids of uploads that have all their bytes but no file or blob yet, because a process died in between. Reads all unfinished
 * uploads by a partial index. An index on those whose offset is their length would cost each commit of an offset its HOT
 * update.
 */
export async function listUnfinishedComplete(database: DataSource): Promise<string[]> {
  const rows = await queryRows<{ id: string }>(
    database,
    `SELECT id FROM uploads
     WHERE status = 'uploading' AND (lease_holder IS NULL OR lease_expires_at < now()) AND ${IS_DUE}
       AND (("offset" = length AND finished_at IS NULL) OR (kind = 'final' AND id IN (${SELECT_READY_FINALS})))
     ORDER BY random() LIMIT 1000`,
  );
  return rows.map((row) => row.id);
}

/** Assignments of an UPDATE of an upload that is of no use any more. */
const END = `blob_id = NULL, status = CASE status WHEN 'finished' THEN 'expired' ELSE status END, ${FORGET_DESCRIPTION}`;

/** An upload that has left something to delete in the store. */
interface Remains extends StoredUpload {
  id: string;
  /** The object that a file refers to; null: there is none. */
  keep: string | null;
  /** Whether a client may still have an address to which it can send a part. */
  open: boolean;
  /** Of a partial upload: the blob that it gives up. */
  blobId: string | null;
  /** Whether the upload is of no use any more; a finished one has become a file. */
  ended: boolean;
  /** Version of its row (xmin): it differs after each change. */
  version: string;
}

/**
 * Deletes the stored bytes of expired and terminated uploads, and what finished uploads have left besides their
 * object. Also removes the description of expired and terminated uploads. A partial upload that was used some time ago
 * expires here.
 * @param ids only these uploads; undefined: all
 * @returns how many uploads were cleaned up
 * @throws {PassIncomplete} when some failed, after all others were cleaned up
 */
export async function discardUploads(
  deps: { database: DataSource; storage: Storage },
  ids?: string[],
): Promise<number> {
  const { database, storage } = deps;
  let last: string | null = null;
  const next = async (limit: number) => {
    const remains = await listRemains(database, last, limit, ids);
    last = remains.at(-1)?.id ?? null;
    return remains;
  };
  return workThrough(database, 'uploads', next, async (remains) => {
    // The object of a finished upload is a blob. It is deleted when no file or upload refers to it any more.
    await storage.uploads.discard(remains, remains.keep);
    await execute(database, 'DELETE FROM upload_parts WHERE upload_id = $1', [remains.id]);
    if (remains.ended)
      await execute(database, 'DELETE FROM concatenations WHERE final_id = $1', [remains.id]);
    await settle(database, remains);
    // The reconciler deletes the blob later if this fails.
    if (remains.blobId) await deleteUnreferencedBlobs(deps, [remains.blobId]).catch(() => {});
  });
}

/** In order of id. @param after id of the last upload of the list before */
function listRemains(
  database: DataSource,
  after: string | null,
  limit: number,
  ids?: string[],
): Promise<Remains[]> {
  return queryRows(
    database,
    `SELECT id, storage_key AS key, "offset"::float8 AS "offset", length::float8 AS length, storage_state AS state,
       CASE WHEN finished_at IS NOT NULL THEN object_key END AS keep,
       status <> 'finished' AND coalesce(addresses_until > now(), false) AS open, ended,
       CASE WHEN ended THEN blob_id END AS "blobId", uploads.xmin::text AS version
     FROM uploads, LATERAL (
       SELECT status <> 'finished'
              OR (kind = 'partial' AND expires_at <= now()) AS ended
     ) AS it
     WHERE ((status IN ('expired', 'terminated') AND discarded_at IS NULL) OR (status = 'finished' AND untidy))
       AND ${IS_DUE} AND ($1::uuid IS NULL OR id > $1) AND ($3::uuid[] IS NULL OR id = ANY ($3))
     ORDER BY id LIMIT $2`,
    [after, limit, ids ?? null],
  );
}

/** SQL condition on a row of `uploads`: a partial upload that was used and stays usable for a while. */
const IS_USABLE = "(kind = 'partial' AND status = 'finished' AND NOT $4)";

/**
 * Records that an upload was cleaned up, and gives up its blob, unless its row has changed since it was read. A changed
 * row may mean that another process recorded a write that can still arrive, so the upload has to be cleaned up again.
 * Where clients can still send parts, the next cleanup follows when their addresses have expired. The next cleanup of a
 * usable partial upload ends it.
 */
async function settle(database: DataSource, { id, version, open, ended, blobId }: Remains): Promise<void> {
  await database.transaction(async (manager) => {
    const changed = await countChanged(
      manager,
      `UPDATE uploads SET untidy = ${IS_USABLE}, failures = 0,
         retry_at = CASE WHEN $3 THEN addresses_until
                         WHEN ${IS_USABLE} THEN greatest(expires_at, now() + interval '1 minute') END,
         discarded_at = CASE WHEN $4 AND NOT $3 THEN now() END
         ${ended ? `, ${END}` : ''}
       WHERE id = $1 AND xmin::text = $2`,
      [id, version, open, ended],
    );
    if (blobId && changed > 0) await releaseBlobs(manager, [blobId]);
  });
}
