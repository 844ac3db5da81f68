import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Forget1763710000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    // From now on an upload keeps no names once it has ended without a file or its file was deleted for good.
    await runner.query(
      `UPDATE uploads SET metadata = '{}' WHERE status IN ('expired', 'terminated') AND metadata <> '{}'`,
    );
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
