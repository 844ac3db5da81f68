import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Passes1763800000004 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      -- To whom the storage belongs; see core/files/claim.ts.
      CREATE TABLE installation (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        id uuid NOT NULL DEFAULT gen_random_uuid()
      );
      INSERT INTO installation DEFAULT VALUES;

      -- Which worker runs the passes; see worker/passes/leader.ts.
      CREATE TABLE pass_leader (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        holder text NOT NULL,
        expires_at timestamptz NOT NULL
      );
      INSERT INTO pass_leader (holder, expires_at) VALUES ('', '-infinity');

      -- For passes that must not look at what is not due. In this order tables are locked by whatever else runs.
      CREATE INDEX uploads_expiry_idx ON uploads (expires_at) WHERE status = 'uploading';
      CREATE INDEX files_deleted_at_idx ON files (deleted_at) WHERE deleted_at IS NOT NULL;
      ALTER TABLE users ADD quota_changed_at timestamptz;
      CREATE INDEX users_quota_changed_at_idx ON users (quota_changed_at) WHERE quota_changed_at IS NOT NULL;

      -- See server/auth/token-seal.ts. Sessions that are open get their key with their next refresh.
      ALTER TABLE sessions ADD token_key bytea;
      ALTER TABLE refresh_tokens ADD sealed boolean NOT NULL DEFAULT false;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
