import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Admins remove jobs from the list of jobs, and look for those that ended badly. */
export class RemovedJobs1763986000000 implements MigrationInterface {
  name = 'RemovedJobs1763986000000';

  async up(runner: QueryRunner): Promise<void> {
    // Without a default: PostgreSQL rewrites no row, and the lock is short.
    await runner.query('ALTER TABLE files ADD COLUMN removed_run integer');
    await runner.query(`
      CREATE INDEX files_not_completed_idx ON files (status, id)
        WHERE status IN ('failed', 'infected', 'paused', 'canceled') AND deleted_at IS NULL
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
