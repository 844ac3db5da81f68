import type { MigrationInterface, QueryRunner } from 'typeorm';

/** An upload has its description in columns of their own, and a kind. */
export class Descriptions1763910000000 implements MigrationInterface {
  name = 'Descriptions1763910000000';

  async up(runner: QueryRunner): Promise<void> {
    // Existing rows satisfy the constraints, so PostgreSQL need not read the table to check them.
    await runner.query(`
      ALTER TABLE uploads
        ADD kind text NOT NULL DEFAULT 'file',
        ADD filename text,
        ADD declared_type text,
        ADD expected_sha256 text,
        ADD settings jsonb,
        ADD CONSTRAINT uploads_kind_check CHECK (kind IN ('file', 'partial', 'final')) NOT VALID;

      -- Processes of an older version describe an upload by its metadata alone, and clear only the metadata when it ends.
      CREATE FUNCTION describe_upload() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.filename := coalesce(nullif(NEW.metadata ->> 'filename', ''), nullif(NEW.metadata ->> 'name', ''), NEW.id::text);
        NEW.declared_type := coalesce(nullif(NEW.metadata ->> 'filetype', ''),
          substring(NEW.metadata ->> 'type' FROM '^[^/[:space:]]{1,127}/[^/[:space:]]{1,127}$'));
        NEW.expected_sha256 := lower(nullif(NEW.metadata ->> 'sha256', ''));
        RETURN NEW;
      END $$;
      CREATE FUNCTION forget_description() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.filename := NULL;
        NEW.declared_type := NULL;
        NEW.expected_sha256 := NULL;
        NEW.settings := NULL;
        RETURN NEW;
      END $$;
      CREATE TRIGGER uploads_filled BEFORE UPDATE OF metadata ON uploads FOR EACH ROW EXECUTE FUNCTION describe_upload();
      UPDATE uploads SET metadata = metadata WHERE status = 'uploading';
      DROP TRIGGER uploads_filled ON uploads;
      CREATE TRIGGER uploads_are_described BEFORE INSERT ON uploads FOR EACH ROW WHEN (NEW.filename IS NULL)
        EXECUTE FUNCTION describe_upload();
      CREATE TRIGGER uploads_are_forgotten BEFORE UPDATE OF metadata ON uploads FOR EACH ROW
        WHEN (NEW.status IN ('expired', 'terminated') AND NEW.metadata = '{}' AND NEW.filename IS NOT NULL)
        EXECUTE FUNCTION forget_description();
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
