import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What a page shows in the place of an image until it is loaded. */
export class Placeholders1763990000000 implements MigrationInterface {
  name = 'Placeholders1763990000000';

  async up(runner: QueryRunner): Promise<void> {
    // Without a default: PostgreSQL rewrites no row, and the lock is short.
    await runner.query('ALTER TABLE files ADD COLUMN thumbhash text, ADD COLUMN dominant_color text');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
