import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The level of the logs of all processes for a time; see core/log-level.ts. At most one row. */
export class LogLevel1763987000000 implements MigrationInterface {
  name = 'LogLevel1763987000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE log_level (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        level text NOT NULL,
        until timestamptz NOT NULL
      );
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
