import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * How long recent files took, by type and size. The table stays small: each type and class of sizes has 16 places, and a
 * new duration takes any one of them.
 */
export class Durations1763960000000 implements MigrationInterface {
  name = 'Durations1763960000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE processing_durations (
        -- As recognised; empty if it was not recognised.
        type text NOT NULL,
        -- The binary logarithm of the size.
        size_class smallint NOT NULL,
        place smallint NOT NULL,
        size bigint NOT NULL,
        read_ms integer NOT NULL,
        decode_ms integer NOT NULL,
        PRIMARY KEY (type, size_class, place)
      );
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
