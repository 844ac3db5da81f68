import type { EntityManager } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { queryEntities } from '../database/rows.js';
import { APPEND_EVENT_OF, actorJson, noteAppended } from '../events/append.js';
import { insertBlobOfUpload } from './blobs.js';

/* How an upload becomes a file: the statement that finishes the upload also inserts its file, as `pending`. */

/**
 * End of a statement in which `upload` is the row of an upload that has just finished: inserts its file, with an event.
 * The parameters are $2, the id of the blob, and $3, the actor.
 */
const FILE_OF_UPLOAD = `
     file AS (
       INSERT INTO files (id, owner_id, blob_id, filename, size, declared_type, expected_sha256, allowed_types, settings,
                          warnings, deliver_to, status, created_at)
       SELECT id, owner_id, $2, filename, "offset", declared_type, expected_sha256, allowed_types, settings,
              coalesce(warnings, '[]'), deliver_to, 'pending', now()
       FROM upload
       RETURNING *
     ), told AS (
       ${APPEND_EVENT_OF} SELECT 'file.created', id, owner_id, jsonb_build_object('size', size), $3::jsonb FROM file
     )
     SELECT * FROM file`;

/**
 * Finishes an upload whose object is made: inserts its file as `pending`, with its blob and its event. One statement,
 * because it runs for every upload and each further statement would slow uploads down.
 * @param actor who sent the last byte; undefined: the system finishes the upload
 * @returns undefined if the upload is not ready, is not to become a file, or is finished already
 */
export async function insertFile(
  manager: EntityManager,
  uploadId: string,
  actor: Actor | undefined,
): Promise<File | undefined> {
  const [file] = await queryEntities(
    manager,
    File,
    `WITH upload AS (
       UPDATE uploads SET status = 'finished', finished_at = now(), lease_holder = NULL
       WHERE id = $1 AND kind = 'file' AND status = 'uploading' AND object_key IS NOT NULL
       RETURNING *
     ), parts AS (
       DELETE FROM upload_parts USING upload WHERE upload_id = upload.id
     ), blob AS (
       ${insertBlobOfUpload('$2')}
     ), ${FILE_OF_UPLOAD}`,
    [uploadId, uuidv7(), actorJson(actor)],
  );
  noteAppended(manager.connection);
  return file;
}

/**
 * Finishes a final upload: inserts its file as `pending`, with its event. Part of the caller's transaction, which has made
 * the blob with a reference for the file.
 * @param blob `size` in bytes
 * @param actor undefined: the system finishes the upload
 * @returns undefined if the upload has ended or is finished already
 */
export async function insertFileOfBlob(
  manager: EntityManager,
  uploadId: string,
  blob: { id: string; size: number },
  actor: Actor | undefined,
): Promise<File | undefined> {
  const [file] = await queryEntities(
    manager,
    File,
    `WITH upload AS (
       UPDATE uploads SET status = 'finished', finished_at = now(), lease_holder = NULL, "offset" = $4, length = $4
       WHERE id = $1 AND kind = 'final' AND status = 'uploading'
       RETURNING *
     ), ${FILE_OF_UPLOAD}`,
    [uploadId, blob.id, actorJson(actor), blob.size],
  );
  noteAppended(manager.connection);
  return file;
}
