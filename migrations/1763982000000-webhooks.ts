import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Subscriptions to events, and the deliveries that they are owed; see core/webhooks. */
export class Webhooks1763982000000 implements MigrationInterface {
  name = 'Webhooks1763982000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE subscriptions (
        id uuid PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('webhook', 'hook')),
        owner_id uuid REFERENCES users (id) ON DELETE CASCADE,
        scope text NOT NULL CHECK (scope IN ('own', 'all')),
        url text NOT NULL,
        events text[] NOT NULL,
        secret bytea,
        previous_secret bytea,
        previous_until timestamptz,
        after_seq bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        last_success_at timestamptz,
        last_failure_at timestamptz,
        is_slow boolean NOT NULL DEFAULT false,
        disabled_at timestamptz,
        disabled_reason text CHECK (disabled_reason IN ('by_user', 'failing', 'gone')),
        deleted_at timestamptz,
        replay_from timestamptz,
        replay_after bigint,
        replay_to bigint,
        CHECK (owner_id IS NOT NULL OR scope = 'all')
      );
      CREATE INDEX subscriptions_owner_idx ON subscriptions (owner_id);
      CREATE INDEX subscriptions_all_idx ON subscriptions (id) WHERE scope = 'all';
      CREATE INDEX subscriptions_deleted_idx ON subscriptions (id) WHERE deleted_at IS NOT NULL;

      CREATE TABLE deliveries (
        id uuid PRIMARY KEY,
        subscription_id uuid NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
        seq bigint NOT NULL,
        type text NOT NULL,
        subject_id uuid NOT NULL,
        state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
        attempts integer NOT NULL DEFAULT 0,
        failures integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        claimed_until timestamptz,
        claimed_by text,
        first_attempt_at timestamptz,
        last_attempt_at timestamptz,
        finished_at timestamptz,
        status integer,
        duration_ms integer,
        answer text,
        error text
      );
      CREATE UNIQUE INDEX deliveries_seq_idx ON deliveries (subscription_id, seq);
      CREATE INDEX deliveries_due_idx ON deliveries (subscription_id, next_attempt_at, seq) WHERE state = 'pending';
      CREATE INDEX deliveries_subject_idx ON deliveries (subscription_id, subject_id, seq) WHERE state = 'pending';
      CREATE INDEX deliveries_failed_idx ON deliveries (subscription_id, seq) WHERE state = 'failed';
      CREATE INDEX deliveries_claimed_idx ON deliveries (claimed_by) WHERE claimed_by IS NOT NULL;
      CREATE INDEX deliveries_finished_idx ON deliveries (finished_at) WHERE finished_at IS NOT NULL;

      -- The first subscription must not find a cursor that begins after it.
      INSERT INTO event_cursors (name, seq) SELECT 'deliveries', seq FROM event_head;
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
