import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The file whose bytes a file shares, see core/files/duplicates.ts. */
export class Duplicates1763981000000 implements MigrationInterface {
  name = 'Duplicates1763981000000';

  async up(runner: QueryRunner): Promise<void> {
    // No foreign key: the other file may be deleted, and what was true when the files were compared stays true.
    await runner.query('ALTER TABLE files ADD duplicate_of uuid');
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
