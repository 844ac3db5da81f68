import type { MigrationInterface, QueryRunner } from 'typeorm';

/** A blob may be a list of objects. No migration locks both uploads and blobs, so a sweep cannot deadlock with one. */
export class Objects1763910000001 implements MigrationInterface {
  name = 'Objects1763910000001';

  async up(runner: QueryRunner): Promise<void> {
    // Existing rows satisfy the constraint, so PostgreSQL need not read the table to check it.
    await runner.query(`
      -- Null stands for the one object whose key is in the row, as older versions write and read it.
      ALTER TABLE blobs
        ADD objects jsonb,
        ALTER key DROP NOT NULL,
        ADD CONSTRAINT blobs_objects_check CHECK (
          CASE WHEN objects IS NULL THEN key IS NOT NULL ELSE key IS NULL AND jsonb_array_length(objects) > 0 END
        ) NOT VALID;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
