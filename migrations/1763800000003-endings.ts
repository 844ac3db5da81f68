import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Endings1763800000003 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    // The constraint also binds processes of an older version. No row violates it, so none needs checking.
    await runner.query(`
      ALTER TABLE uploads
        ADD failures integer NOT NULL DEFAULT 0,
        ADD retry_at timestamptz,
        ADD error jsonb,
        ADD addresses_until timestamptz;
      ALTER TABLE blobs
        ADD doomed_at timestamptz,
        ADD failures integer NOT NULL DEFAULT 0,
        ADD retry_at timestamptz,
        ADD CONSTRAINT blobs_doomed_check CHECK (doomed_at IS NULL OR refs = 0) NOT VALID;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
