import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Events go into an inbox. The sequencer moves them, with their numbers, into a table that only grows. That
 * table has one partition for each ten million numbers; see core/events/sequence.ts.
 */
export class EventInbox1763900000000 implements MigrationInterface {
  name = 'EventInbox1763900000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      LOCK TABLE events IN ACCESS EXCLUSIVE MODE;
      CREATE TABLE event_inbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        type text NOT NULL,
        subject_id uuid,
        owner_id uuid,
        data jsonb NOT NULL DEFAULT '{}',
        actor jsonb,
        result text NOT NULL DEFAULT 'ok' CHECK (result IN ('ok', 'refused')),
        created_at timestamptz NOT NULL DEFAULT now()
      );
      CREATE INDEX event_inbox_subject_idx ON event_inbox (subject_id);
      SELECT setval(pg_get_serial_sequence('event_inbox', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM events), false);

      DROP TRIGGER events_are_kept ON events;
      DROP TRIGGER events_are_not_emptied ON events;
      WITH waiting AS (DELETE FROM events WHERE seq IS NULL RETURNING *)
      INSERT INTO event_inbox (id, type, subject_id, owner_id, data, actor, result, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT id, type, subject_id, owner_id, data, actor, result, created_at FROM waiting;

      -- What there is becomes the first partition, up to the next full ten million.
      DROP INDEX events_unsequenced_idx;
      ALTER TABLE events DROP CONSTRAINT events_pkey;
      ALTER TABLE events ALTER id DROP IDENTITY, ALTER seq SET NOT NULL, ALTER hash SET NOT NULL;
      ALTER TABLE events ADD CONSTRAINT events_0_pkey PRIMARY KEY USING INDEX events_seq_key;
      ALTER TABLE events RENAME TO events_0;
      ALTER INDEX events_subject_idx RENAME TO events_0_subject_idx;
      ALTER INDEX events_people_idx RENAME TO events_0_people_idx;
      ALTER INDEX events_actor_idx RENAME TO events_0_actor_idx;
      ALTER INDEX events_type_idx RENAME TO events_0_type_idx;
      ALTER INDEX events_refused_idx RENAME TO events_0_refused_idx;
      ALTER INDEX events_created_at_idx RENAME TO events_0_created_at_idx;
      CREATE TABLE events (LIKE events_0 INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (seq))
        PARTITION BY RANGE (seq);
      CREATE INDEX events_subject_idx ON events (subject_id, id);
      CREATE INDEX events_people_idx ON events (seq) WHERE actor IS NOT NULL AND seq IS NOT NULL;
      CREATE INDEX events_actor_idx ON events ((actor ->> 'userId'), seq) WHERE actor IS NOT NULL AND seq IS NOT NULL;
      CREATE INDEX events_type_idx ON events (type text_pattern_ops, seq) WHERE seq IS NOT NULL;
      CREATE INDEX events_refused_idx ON events (seq) WHERE result = 'refused' AND seq IS NOT NULL;
      CREATE INDEX events_created_at_idx ON events (created_at) WHERE seq IS NOT NULL;
      CREATE INDEX events_owner_idx ON events (owner_id, seq);

      CREATE OR REPLACE FUNCTION keep_events() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        RAISE EXCEPTION 'events are only ever appended';
      END $$;
      CREATE TRIGGER events_are_kept BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep_events();
      CREATE TRIGGER events_are_not_emptied BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION keep_events();
      CREATE TRIGGER events_are_kept BEFORE UPDATE ON event_inbox FOR EACH ROW EXECUTE FUNCTION keep_events();

      DO $$
      DECLARE
        upper_end bigint := (SELECT (seq / 10000000 + 1) * 10000000 FROM event_head);
      BEGIN
        EXECUTE format('ALTER TABLE events ATTACH PARTITION events_0 FOR VALUES FROM (MINVALUE) TO (%s)', upper_end);
      END $$;

      -- Makes the partition that a number belongs to, unless it is there. Partitions follow each other without gaps.
      CREATE FUNCTION ensure_event_partition(number bigint) RETURNS void LANGUAGE plpgsql AS $$
      DECLARE
        lower_end bigint := number / 10000000 * 10000000;
        partition text := format('events_%s', number / 10000000);
      BEGIN
        IF to_regclass(partition) IS NOT NULL THEN RETURN; END IF;
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', partition);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
          partition, lower_end, lower_end + 10000000);
      END $$;
      SELECT ensure_event_partition((seq / 10000000 + 1) * 10000000) FROM event_head;

      -- Processes of an older version still insert events without a number: these go on into the inbox.
      CREATE TABLE events_unnumbered PARTITION OF events DEFAULT;
      CREATE FUNCTION pass_into_inbox() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO event_inbox (type, subject_id, owner_id, data, actor, result, created_at)
          VALUES (NEW.type, NEW.subject_id, NEW.owner_id, NEW.data, NEW.actor, NEW.result, NEW.created_at);
        RETURN NULL;
      END $$;
      CREATE TRIGGER unnumbered_events BEFORE INSERT ON events_unnumbered FOR EACH ROW WHEN (NEW.seq IS NULL)
        EXECUTE FUNCTION pass_into_inbox();

      -- Also those that have no number yet.
      CREATE VIEW all_events AS
        SELECT seq, hash, id, type, subject_id, owner_id, data, actor, result, created_at FROM events
        UNION ALL
        SELECT NULL, NULL, id, type, subject_id, owner_id, data, actor, result, created_at FROM event_inbox;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
