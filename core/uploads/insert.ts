import { randomUUID } from 'node:crypto';
import type { EntityManager } from 'typeorm';
import { Upload } from '../database/entities/upload.js';
import { queryEntities } from '../database/rows.js';
import { APPEND_EVENT_OF, noteAppended } from '../events/append.js';
import type { CreationDeps, NewUpload } from './create.js';
import { interpretMetadata } from './description.js';
import { LEASE_MS } from './lease.js';
import { hasRoom } from './quota.js';
import { findTypeLimit } from './size-limits.js';

/* The statement that writes the rows of new uploads. */

/** Inserts all uploads or none. @param uploads of one owner */
export async function insertRows(
  deps: CreationDeps,
  manager: EntityManager,
  uploads: NewUpload[],
): Promise<Upload[]> {
  const files = uploads.filter(({ concat }) => concat?.kind !== 'partial').length;
  const created = await queryEntities(
    manager,
    Upload,
    `WITH wanted AS (
       SELECT * FROM jsonb_to_recordset($1::jsonb) AS one (
         id uuid, kind text, length bigint, metadata jsonb, metadata_header text, filename text, declared_type text,
         expected_sha256 text, settings jsonb, concat_header text, warnings jsonb, direct boolean, storage_key text,
         lease_holder text, upload_token_id uuid, max_size bigint, allowed_types text[], deliver_to text, actor jsonb)
     ), owner AS (
       UPDATE users SET used_bytes = used_bytes + $3::bigint, used_files = used_files + $9::bigint
       WHERE id = $2 AND disabled_at IS NULL
         AND ${hasRoom({ bytes: '$3::bigint', files: '$4::bigint', quotaBytes: '$5', quotaFiles: '$6' })}
       RETURNING id AS owner_id
     ), created AS (
       INSERT INTO uploads (id, owner_id, kind, status, length, metadata, metadata_header, filename, declared_type,
                            expected_sha256, settings, concat_header, warnings, direct, storage_key, lease_holder,
                            lease_epoch, lease_expires_at, expires_at, reserved_bytes, upload_token_id, max_size,
                            allowed_types, deliver_to)
       SELECT id, owner_id, kind, 'uploading', length, metadata, metadata_header, filename, declared_type,
              expected_sha256, settings, concat_header, warnings, direct, storage_key, lease_holder, 1,
              CASE WHEN lease_holder IS NOT NULL THEN now() + $7 * interval '1 millisecond' END,
              now() + $8 * interval '1 hour', coalesce(length, 0), upload_token_id, max_size, allowed_types,
              deliver_to
       FROM wanted, owner
       RETURNING *
     ), told AS (
       ${APPEND_EVENT_OF}
       SELECT 'upload.created', id, owner_id,
              jsonb_build_object('length', length)
                || CASE WHEN kind = 'file' THEN '{}' ELSE jsonb_build_object('kind', kind) END,
              actor
       FROM wanted, owner
     )
     SELECT * FROM created`,
    [
      JSON.stringify(uploads.map((upload) => toRow(deps, upload))),
      uploads[0]?.ownerId,
      uploads.reduce((sum, { length }) => sum + (length ?? 0), 0),
      // A partial upload is no file, but it is of no use without room for one.
      Math.max(1, files),
      deps.quota.bytes,
      deps.quota.files,
      LEASE_MS,
      deps.uploadExpiryHours,
      files,
    ],
  );
  noteAppended(manager.connection);
  return created;
}

/** A new upload as the statement reads it. */
function toRow(deps: CreationDeps, upload: NewUpload) {
  const { filename, declaredType, expectedSha256, settings } = interpretMetadata(upload.metadata);
  const { token, concat } = upload;
  return {
    id: upload.id,
    kind: concat?.kind ?? 'file',
    length: upload.length,
    metadata: upload.metadata,
    metadata_header: upload.metadataHeader ?? null,
    filename: filename ?? upload.id,
    declared_type: declaredType,
    expected_sha256: expectedSha256,
    settings,
    concat_header: concat?.kind === 'final' ? concat.header : null,
    warnings: upload.warnings,
    direct: upload.direct ?? false,
    storage_key: randomUUID(),
    lease_holder: upload.leaseHolder,
    upload_token_id: token?.id ?? null,
    max_size: smaller(token?.maxSize ?? null, findTypeLimit(deps, declaredType)?.maxSize ?? null),
    allowed_types: token?.types ?? null,
    deliver_to: upload.deliverTo ?? null,
    actor: upload.actor,
  };
}

/** The smaller of two limits; null is none. */
function smaller(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.min(a, b);
}
