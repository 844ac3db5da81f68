import type { MigrationInterface, QueryRunner } from 'typeorm';

/** How often hooks were asked about an upload, and how the hooks have answered lately; see core/hooks. */
export class Hooks1763983000000 implements MigrationInterface {
  name = 'Hooks1763983000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE uploads
        ADD COLUMN finish_asked integer NOT NULL DEFAULT 0,
        ADD COLUMN end_asked integer NOT NULL DEFAULT 0;
      CREATE TABLE hook_results (
        type text PRIMARY KEY,
        asked bigint NOT NULL DEFAULT 0,
        refused bigint NOT NULL DEFAULT 0,
        failed bigint NOT NULL DEFAULT 0,
        last_at timestamptz,
        last_ms integer,
        last_failed_at timestamptz,
        last_error text
      );
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
