import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Indexes for the filters and orders of the list of files, see core/files/list.ts. */
export class FileLists1763950000000 implements MigrationInterface {
  name = 'FileLists1763950000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      -- The form of a name that searches compare and that lists are sorted by: é is é in whichever way it is composed, and
      -- capital letters count as small ones. The database's own rules decide about capitals if they know more than ASCII.
      -- Most names are ASCII, which needs no normalisation; normalize() is slow.
      DO $$
      DECLARE
        rule text := 'upper(%s)';
      BEGIN
        IF upper('é') <> 'É' AND EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu') THEN
          rule := 'upper(%s COLLATE pg_catalog."und-x-icu")';
        END IF;
        EXECUTE format(
          'CREATE FUNCTION file_name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS %L',
          format('SELECT CASE WHEN octet_length(name) = length(name) THEN %s ELSE %s END', format(rule, 'name'),
            format(rule, CASE current_setting('server_encoding') WHEN 'UTF8' THEN 'normalize(name, NFKC)' ELSE 'name' END)));
      END $$;

      -- The media type that counts, without its parameters.
      CREATE FUNCTION file_type(detected_type text, declared_type text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
          SELECT lower(rtrim(split_part(coalesce(detected_type, declared_type), ';', 1)) COLLATE "C")
        $$;

      -- PostgreSQL takes no statistics from partial indexes. It decides with these whether an index serves a filter best.
      CREATE STATISTICS files_name_stats ON (file_name_key(filename)) FROM files;
      CREATE STATISTICS files_type_stats ON (file_type(detected_type, declared_type)) FROM files;

      CREATE INDEX files_status_idx ON files (owner_id, status, created_at DESC, id DESC) WHERE deleted_at IS NULL;
      CREATE INDEX files_type_idx ON files
        (owner_id, file_type(detected_type, declared_type) COLLATE "C", created_at DESC, id DESC) WHERE deleted_at IS NULL;
      CREATE INDEX files_size_idx ON files (owner_id, size, id) WHERE deleted_at IS NULL;
      CREATE INDEX files_name_idx ON files (owner_id, file_name_key(filename) COLLATE "C", id) WHERE deleted_at IS NULL;
      ANALYZE files;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
