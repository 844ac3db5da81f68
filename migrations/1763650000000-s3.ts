import type { MigrationInterface, QueryRunner } from 'typeorm';

export class S31763650000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE uploads
        ADD direct boolean NOT NULL DEFAULT false,
        ADD storage_state jsonb,
        ADD object_key text,
        ADD untidy boolean NOT NULL DEFAULT false;
      UPDATE uploads SET object_key = storage_key WHERE status = 'finished';

      CREATE TABLE upload_parts (
        upload_id uuid NOT NULL REFERENCES uploads (id),
        number integer NOT NULL CHECK (number BETWEEN 1 AND 10000),
        size bigint NOT NULL CHECK (size > 0),
        etag text NOT NULL,
        PRIMARY KEY (upload_id, number)
      );

      DROP INDEX uploads_discard_idx;
      CREATE INDEX uploads_discard_idx ON uploads (id)
        WHERE (status IN ('expired', 'terminated') AND discarded_at IS NULL) OR (status = 'finished' AND untidy);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
