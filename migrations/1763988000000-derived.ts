import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Derivatives that are not pictures have no width and height. */
export class Derived1763988000000 implements MigrationInterface {
  name = 'Derived1763988000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE derivatives ALTER COLUMN width DROP NOT NULL, ALTER COLUMN height DROP NOT NULL;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
