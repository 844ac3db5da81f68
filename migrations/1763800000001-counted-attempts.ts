import type { MigrationInterface, QueryRunner } from 'typeorm';

export class CountedAttempts1763800000001 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    // Without a default, so that no row is rewritten and processes of an older version keep working.
    await runner.query('ALTER TABLE files ADD COLUMN counted_attempts integer');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
