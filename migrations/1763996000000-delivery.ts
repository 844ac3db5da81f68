import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Where files are delivered; see core/delivery. */
export class Delivery1763996000000 implements MigrationInterface {
  name = 'Delivery1763996000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE uploads ADD COLUMN deliver_to text;
      ALTER TABLE files ADD COLUMN deliver_to text;
      CREATE TABLE file_deliveries (
        place text NOT NULL,
        key text NOT NULL,
        file_id uuid NOT NULL REFERENCES files (id) ON DELETE CASCADE,
        target text NOT NULL,
        destination text NOT NULL,
        address text NOT NULL,
        unfinished text,
        claimed_at timestamptz NOT NULL DEFAULT now(),
        delivered_at timestamptz,
        PRIMARY KEY (place, key)
      );
      CREATE INDEX file_deliveries_file_idx ON file_deliveries (file_id);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
