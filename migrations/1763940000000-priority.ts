import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The priority of a file's present run in the queue, so that the relay can add a lost job as it was. */
export class Priority1763940000000 implements MigrationInterface {
  name = 'Priority1763940000000';

  async up(runner: QueryRunner): Promise<void> {
    // A constant default: PostgreSQL rewrites no row, and the lock is short.
    await runner.query('ALTER TABLE files ADD COLUMN priority smallint NOT NULL DEFAULT 0');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
