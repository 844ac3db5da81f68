import type { MigrationInterface, QueryRunner } from 'typeorm';

/** How far each durable reader has read the event log; see core/events/cursors.ts. */
export class EventCursors1763980000000 implements MigrationInterface {
  name = 'EventCursors1763980000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE event_cursors (
        name text PRIMARY KEY,
        seq bigint NOT NULL
      );
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
