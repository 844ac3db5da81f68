import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Partial uploads have a blob, and final uploads name the partial uploads that they are made of. */
export class Concatenation1763920000000 implements MigrationInterface {
  name = 'Concatenation1763920000000';

  async up(runner: QueryRunner): Promise<void> {
    // Columns without a default and a new table: PostgreSQL reads no row, and the lock on uploads is short.
    await runner.query(`
      ALTER TABLE uploads ADD blob_id uuid, ADD concat_header text;

      -- Only of final uploads that are under way.
      CREATE TABLE concatenations (
        final_id uuid NOT NULL,
        place integer NOT NULL,
        partial_id uuid NOT NULL,
        PRIMARY KEY (final_id, place)
      );
      CREATE INDEX concatenations_partial_id_idx ON concatenations (partial_id);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
