import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Forget1763710000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    // Uploads that have ended without a file, or whose file was deleted for good, keep no names from now on.
    await runner.query(
      `UPDATE uploads SET metadata = '{}' WHERE status IN ('expired', 'terminated') AND metadata <> '{}'`,
    );
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
