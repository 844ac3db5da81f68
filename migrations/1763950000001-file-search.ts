import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The index for searches in names, where the database has pg_trgm and lets us use it; docs/finding.md says how to add it
 * later. In a transaction of its own: it takes a while for many files, and they cannot be written meanwhile.
 */
export class FileSearch1763950000001 implements MigrationInterface {
  name = 'FileSearch1763950000001';

  async up(runner: QueryRunner): Promise<void> {
    // A file that is being processed is changed several times, and each change would write all the parts of its name
    // anew. So the index holds files whose processing has ended; files_unfinished_idx finds the others.
    await runner.query(`
      DO $$
      BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
        CREATE INDEX files_search_idx ON files USING gin (file_name_key(filename) gin_trgm_ops)
          WITH (gin_pending_list_limit = 1024) WHERE status NOT IN ('pending', 'processing');
      EXCEPTION
        -- The extension is not installed, may not be created here, or is in a schema that we do not look into.
        WHEN feature_not_supported OR undefined_file OR insufficient_privilege OR undefined_object THEN NULL;
      END $$;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
