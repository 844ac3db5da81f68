import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Finds the oldest file of an owner with certain bytes, however many there are. The index reads the whole table once. In a
 * transaction of its own it blocks only writes to `files` meanwhile.
 */
export class DuplicatesIndex1763981000001 implements MigrationInterface {
  name = 'DuplicatesIndex1763981000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(
      'CREATE INDEX files_sha256_idx ON files (owner_id, sha256, id) WHERE sha256 IS NOT NULL',
    );
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
