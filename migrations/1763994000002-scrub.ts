import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The check of stored bytes against their SHA-256: how far it has come, and the files whose bytes have changed. */
export class Scrub1763994000002 implements MigrationInterface {
  name = 'Scrub1763994000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE files ADD corrupted_at timestamptz;
      CREATE INDEX files_corrupted_idx ON files (id) WHERE corrupted_at IS NOT NULL;
      CREATE TABLE scrub (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        position uuid,
        began_at timestamptz,
        ended_at timestamptz,
        complete_since timestamptz
      );
      INSERT INTO scrub DEFAULT VALUES;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
