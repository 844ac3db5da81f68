import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The sweep looks for the object of a blob by its key. The index reads the whole table once. In a transaction of its own
 * it blocks only writes to `blobs` meanwhile: files are read and uploads go on.
 */
export class ObjectsIndex1763910000002 implements MigrationInterface {
  name = 'ObjectsIndex1763910000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE INDEX blobs_objects_idx ON blobs USING gin (jsonb_path_query_array(objects, '$[*].key'))
        WHERE objects IS NOT NULL;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
