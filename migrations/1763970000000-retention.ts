import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The pass that deletes files after FILE_RETENTION_HOURS looks for the oldest ones. The index reads the whole table once. In
 * a transaction of its own it blocks only writes to `files` meanwhile: files are listed and downloaded, and uploads in
 * progress go on.
 */
export class Retention1763970000000 implements MigrationInterface {
  name = 'Retention1763970000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('CREATE INDEX files_created_at_idx ON files (created_at)');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
