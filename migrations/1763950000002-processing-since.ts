import type { MigrationInterface, QueryRunner } from 'typeorm';

/** When the present run of a file began to be processed: its end tells how long that took. */
export class ProcessingSince1763950000002 implements MigrationInterface {
  name = 'ProcessingSince1763950000002';

  async up(runner: QueryRunner): Promise<void> {
    // Without a default: PostgreSQL rewrites no row, and the lock is short.
    await runner.query('ALTER TABLE files ADD COLUMN processing_since timestamptz');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
