import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Scans of stored files that somebody, or new signatures, have asked for; see core/files/rescans.ts. */
export class Rescans1763994000001 implements MigrationInterface {
  name = 'Rescans1763994000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE rescans (
        id uuid PRIMARY KEY,
        file_id uuid,
        filter jsonb NOT NULL DEFAULT '{}',
        by_system boolean NOT NULL,
        signatures text,
        state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'canceled')),
        position uuid,
        reached_at timestamptz,
        scanned integer NOT NULL DEFAULT 0,
        infected integer NOT NULL DEFAULT 0,
        failed integer NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz
      );
      CREATE INDEX rescans_running_idx ON rescans (id) WHERE state = 'running';
      CREATE UNIQUE INDEX rescans_of_all_idx ON rescans (by_system) WHERE state = 'running' AND file_id IS NULL;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
