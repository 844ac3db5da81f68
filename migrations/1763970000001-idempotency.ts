import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Requests that came with an Idempotency-Key; see server/idempotency/once.ts. */
export class Idempotency1763970000001 implements MigrationInterface {
  name = 'Idempotency1763970000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE keyed_requests (
        id bytea PRIMARY KEY,
        fingerprint bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        answer bytea
      );
      CREATE INDEX keyed_requests_created_at_idx ON keyed_requests (created_at);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
