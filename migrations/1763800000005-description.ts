import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Description1763800000005 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    // Both are null in rows of older versions, which keep writing such rows until they have stopped.
    await runner.query('ALTER TABLE uploads ADD COLUMN metadata_header text, ADD COLUMN warnings jsonb');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
