import type { MigrationInterface, QueryRunner } from 'typeorm';

/** A file has the settings of its upload, which its owner may change. */
export class Settings1763989000000 implements MigrationInterface {
  name = 'Settings1763989000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE files ADD settings jsonb');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
