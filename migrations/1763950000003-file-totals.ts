import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Counts of files that need not be counted anew, see core/files/totals.ts. */
export class FileTotals1763950000003 implements MigrationInterface {
  name = 'FileTotals1763950000003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      -- What has happened to files and is not in the sums yet. Each transaction only adds rows, so none waits for another.
      CREATE TABLE file_changes (
        owner_id uuid NOT NULL,
        trashed boolean NOT NULL,
        status text NOT NULL,
        type text NOT NULL,
        files integer NOT NULL,
        bytes bigint NOT NULL,
        -- How it came to this status; null for all that the last day's figures do not tell.
        outcome text,
        at timestamptz NOT NULL DEFAULT now(),
        -- How long its processing took, and the class of that duration: 2^(n/8) ms at most, more than 2^((n-1)/8) ms.
        ms bigint,
        ms_class smallint
      );
      CREATE INDEX file_changes_owner_id_idx ON file_changes (owner_id);

      -- The files of each owner. A type is '' where none is known.
      CREATE TABLE file_totals (
        owner_id uuid,
        trashed boolean,
        status text,
        type text,
        files bigint NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (owner_id, trashed, status, type)
      ) WITH (fillfactor = 70);

      -- How many files an owner created and how many came to an end, in each hour. The class is -1 where there is none.
      CREATE TABLE file_hours (
        owner_id uuid,
        hour timestamptz,
        outcome text,
        ms_class smallint,
        files bigint NOT NULL,
        bytes bigint NOT NULL,
        ms bigint NOT NULL,
        PRIMARY KEY (owner_id, hour, outcome, ms_class)
      ) WITH (fillfactor = 70);
      CREATE INDEX file_hours_hour_idx ON file_hours (hour);

      CREATE FUNCTION note_file_change() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE
        outcome text;
        ms bigint;
      BEGIN
        IF TG_OP <> 'INSERT' THEN
          INSERT INTO file_changes (owner_id, trashed, status, type, files, bytes)
          VALUES (OLD.owner_id, OLD.deleted_at IS NOT NULL, OLD.status,
            coalesce(file_type(OLD.detected_type, OLD.declared_type), ''), -1, -OLD.size);
        END IF;
        IF TG_OP <> 'DELETE' THEN
          IF TG_OP = 'INSERT' THEN
            outcome := 'created';
          ELSIF NEW.status <> OLD.status AND NEW.status IN ('completed', 'failed', 'infected') THEN
            outcome := NEW.status;
            ms := greatest(0, extract(epoch FROM now() - NEW.processing_since) * 1000);
          END IF;
          INSERT INTO file_changes (owner_id, trashed, status, type, files, bytes, outcome, ms, ms_class)
          VALUES (NEW.owner_id, NEW.deleted_at IS NOT NULL, NEW.status,
            coalesce(file_type(NEW.detected_type, NEW.declared_type), ''), 1, NEW.size,
            outcome, ms, CASE WHEN ms IS NOT NULL THEN ceil(8 * log(2, greatest(ms, 1))) END);
        END IF;
        RETURN NULL;
      END $$;
      -- In this order: from here on no transaction writes files until this one ends, so the sums miss none.
      CREATE TRIGGER files_come_and_go AFTER INSERT OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION note_file_change();
      CREATE TRIGGER files_change AFTER UPDATE ON files FOR EACH ROW
        WHEN ((OLD.owner_id, OLD.status, OLD.size, OLD.deleted_at IS NULL, OLD.detected_type, OLD.declared_type)
          IS DISTINCT FROM
          (NEW.owner_id, NEW.status, NEW.size, NEW.deleted_at IS NULL, NEW.detected_type, NEW.declared_type))
        EXECUTE FUNCTION note_file_change();
      INSERT INTO file_totals (owner_id, trashed, status, type, files, bytes)
        SELECT owner_id, deleted_at IS NOT NULL, status, coalesce(file_type(detected_type, declared_type), ''),
          count(*), sum(size)
        FROM files GROUP BY 1, 2, 3, 4;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
