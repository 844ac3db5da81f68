import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Says of which infected files the bytes are still to be moved into quarantine. The index holds only these. */
export class Quarantine1763994000000 implements MigrationInterface {
  name = 'Quarantine1763994000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      ALTER TABLE files ADD in_quarantine boolean NOT NULL DEFAULT false;
      CREATE INDEX files_to_quarantine_idx ON files (id) WHERE status = 'infected' AND NOT in_quarantine;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
