import type { Queryable } from './database.js';

/** A row of `files` without the requests and the processing that would make it. */
export interface StoredFile {
  filename?: string;
  size?: number;
  status?: string;
  declaredType?: string | null;
  detectedType?: string | null;
  /** ISO 8601, with as many digits as PostgreSQL keeps. */
  createdAt?: string;
  deletedAt?: string | null;
}

/** Columns of a row that is made from `spec`, a row of the statement around it. */
const INSERT = `
  made AS (
    INSERT INTO uploads (id, owner_id, status, storage_key, expires_at)
    SELECT id, $1, 'finished', id, now() FROM spec RETURNING id
  ), stored AS (
    INSERT INTO blobs (id, key, size, refs) SELECT id, id, 1, 1 FROM spec
  )
  INSERT INTO files (id, owner_id, blob_id, filename, size, status, declared_type, detected_type, created_at, deleted_at)
  SELECT spec.id, $1, spec.id, filename, size, status, declared_type, detected_type, created_at, deleted_at
  FROM spec JOIN made USING (id)`;

/** Inserts files of an owner. */
export async function storeFiles(database: Queryable, ownerId: string, files: StoredFile[]): Promise<void> {
  const rows = files.map((file) => ({
    filename: file.filename ?? 'a.txt',
    size: file.size ?? 1,
    status: file.status ?? 'completed',
    declared_type: file.declaredType ?? null,
    detected_type: file.detectedType ?? null,
    created_at: file.createdAt ?? new Date().toISOString(),
    deleted_at: file.deletedAt ?? null,
  }));
  await database.query(
    `WITH spec AS MATERIALIZED (
       SELECT gen_random_uuid() AS id, * FROM jsonb_to_recordset($2) AS row
         (filename text, size bigint, status text, declared_type text, detected_type text, created_at timestamptz,
          deleted_at timestamptz)
     ), ${INSERT}`,
    [ownerId, JSON.stringify(rows)],
  );
}

/**
 * Inserts many files of an owner, for questions about plans. One in a thousand is `failed`, one in a thousand a PDF and
 * one in a thousand has 7 bytes; the names are `<hash> <number>.jpg`.
 */
export async function storeMany(database: Queryable, ownerId: string, count: number): Promise<void> {
  await database.query(
    `WITH spec AS MATERIALIZED (
       SELECT gen_random_uuid() AS id, md5(n::text) || ' ' || n || '.jpg' AS filename,
         CASE WHEN n % 1000 = 3 THEN 7 ELSE 1000 + n * 37 % 100003 END AS size,
         CASE WHEN n % 1000 = 1 THEN 'failed' ELSE 'completed' END AS status, 'image/jpeg' AS declared_type,
         CASE WHEN n % 1000 = 2 THEN 'application/pdf' ELSE 'image/jpeg' END AS detected_type,
         now() - n * interval '1 second' AS created_at, NULL::timestamptz AS deleted_at
       FROM generate_series(1, $2) AS n
     ), ${INSERT}`,
    [ownerId, count],
  );
  await database.query('ANALYZE files');
}
