import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Images that were rendered on request. */
export class Variants1763990000001 implements MigrationInterface {
  name = 'Variants1763990000001';

  async up(runner: QueryRunner): Promise<void> {
    // Without a reference to files: an older process, which does not know this table, can still purge a file.
    await runner.query(`
      CREATE TABLE variants (
        file_id uuid NOT NULL,
        key text NOT NULL,
        blob_id uuid NOT NULL REFERENCES blobs (id),
        content_type text NOT NULL,
        etag text NOT NULL,
        created_at timestamptz NOT NULL,
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (file_id, key)
      );
      CREATE INDEX variants_blob_id_idx ON variants (blob_id);
      CREATE INDEX variants_used_at_idx ON variants (used_at);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
