import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The bytes that need not be stored because files of an owner share a blob. A trigger counts them, so that processes of an
 * older version, which also release blobs, keep the count right.
 */
export class SavedBytes1763981000002 implements MigrationInterface {
  name = 'SavedBytes1763981000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE FUNCTION count_saved_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        -- A blob that has a reference before and after the change has a file that refers to it, of the only owner it has.
        UPDATE users SET saved_bytes = saved_bytes + (greatest(NEW.refs, 1) - greatest(OLD.refs, 1)) * NEW.size
        WHERE id = (SELECT owner_id FROM files WHERE blob_id = NEW.id LIMIT 1);
        RETURN NULL;
      END $$;
      -- Nearly all blobs have one reference for all their life. The table is locked before users, as everywhere.
      CREATE TRIGGER blobs_shared AFTER UPDATE OF refs ON blobs FOR EACH ROW
        WHEN (OLD.refs <> NEW.refs AND (OLD.refs > 1 OR NEW.refs > 1)) EXECUTE FUNCTION count_saved_bytes();
      ALTER TABLE users ADD saved_bytes bigint NOT NULL DEFAULT 0;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
