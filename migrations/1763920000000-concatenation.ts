import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Partial uploads have a blob, and final uploads name the partial uploads that they are made of. */
export class Concatenation1763920000000 implements MigrationInterface {
  name = 'Concatenation1763920000000';

  async up(runner: QueryRunner): Promise<void> {
    // Columns without a default and a new table: PostgreSQL reads no row, and the lock on uploads is short.
    await runner.query(`
      ALTER TABLE uploads ADD blob_id uuid, ADD concat_header text;

      -- Only of final uploads that are under way.
      CREATE TABLE concatenations (
        final_id uuid NOT NULL,
        place integer NOT NULL,
        partial_id uuid NOT NULL,
        PRIMARY KEY (final_id, place)
      );
      CREATE INDEX concatenations_partial_id_idx ON concatenations (partial_id);

      -- Processes of the older version discard a partial upload but do not give up its blob. So an upload that is not under
      -- way stays in uploads_discard_idx for as long as it has a blob. The code itself keeps to that.
      CREATE FUNCTION keep_blob_discardable() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF NEW.status = 'finished' THEN NEW.untidy := true; ELSE NEW.discarded_at := NULL; END IF;
        RETURN NEW;
      END $$;
      CREATE TRIGGER uploads_keep_blob_discardable BEFORE UPDATE ON uploads FOR EACH ROW
        WHEN (NEW.blob_id IS NOT NULL AND NEW.status <> 'uploading') EXECUTE FUNCTION keep_blob_discardable();
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
