import type { MigrationInterface, QueryRunner } from 'typeorm';

export class People1763700000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      -- People: accounts of an identity provider, quotas and usage.
      ALTER TABLE users
        ALTER password_hash DROP NOT NULL,
        ADD external_id text,
        ADD max_bytes bigint CHECK (max_bytes >= -1),
        ADD max_files bigint CHECK (max_files >= -1),
        ADD used_bytes bigint NOT NULL DEFAULT 0,
        ADD used_files bigint NOT NULL DEFAULT 0,
        ADD disabled_at timestamptz;
      -- Each upload changes the usage of its owner: room for those updates to stay HOT.
      ALTER TABLE users SET (fillfactor = 50);
      DROP INDEX users_email_key;
      CREATE UNIQUE INDEX users_email_key ON users (email) WHERE external_id IS NULL;
      CREATE UNIQUE INDEX users_external_id_key ON users (external_id);

      -- One row per refresh token that was ever given out in a session that lives, so that one that comes back is known.
      CREATE TABLE refresh_tokens (
        token_hash bytea PRIMARY KEY,
        session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        replaced_at timestamptz
      );
      CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id, replaced_at);
      INSERT INTO refresh_tokens (token_hash, session_id) SELECT token_hash, id FROM sessions;
      ALTER TABLE sessions
        DROP token_hash,
        ADD last_used_at timestamptz NOT NULL DEFAULT now(),
        ADD address text,
        ADD user_agent text;

      CREATE TABLE invitations (
        id uuid PRIMARY KEY,
        token_hash bytea NOT NULL,
        email text,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
      );
      CREATE UNIQUE INDEX invitations_token_hash_key ON invitations (token_hash);

      CREATE TABLE api_keys (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        name text NOT NULL,
        prefix text NOT NULL,
        secret_hash bytea NOT NULL,
        scopes text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        last_used_at timestamptz,
        expires_at timestamptz,
        revoked_at timestamptz
      );
      CREATE UNIQUE INDEX api_keys_prefix_key ON api_keys (prefix);
      CREATE INDEX api_keys_user_id_idx ON api_keys (user_id);

      CREATE TABLE upload_tokens (
        id uuid PRIMARY KEY,
        owner_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        label text,
        max_size bigint CHECK (max_size >= 0),
        types text[],
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz,
        revoked_at timestamptz
      );
      CREATE INDEX upload_tokens_owner_id_idx ON upload_tokens (owner_id, id);

      ALTER TABLE uploads
        ADD upload_token_id uuid REFERENCES upload_tokens (id) ON DELETE SET NULL,
        ADD max_size bigint,
        ADD allowed_types text[],
        ADD reserved_bytes bigint NOT NULL DEFAULT 0 CHECK (reserved_bytes >= 0);
      CREATE UNIQUE INDEX uploads_upload_token_id_key ON uploads (upload_token_id);
      ALTER TABLE files ADD allowed_types text[];
      CREATE INDEX files_trash_idx ON files (owner_id, deleted_at) WHERE deleted_at IS NOT NULL;

      -- What is there already.
      UPDATE uploads SET reserved_bytes = coalesce(length, "offset") WHERE status = 'uploading';
      UPDATE users SET used_bytes = held.bytes, used_files = held.files
      FROM (
        SELECT owner_id, sum(bytes) AS bytes, count(*) AS files
        FROM (
          SELECT owner_id, reserved_bytes AS bytes FROM uploads WHERE status = 'uploading'
          UNION ALL
          SELECT owner_id, size FROM files WHERE deleted_at IS NULL
        ) AS one GROUP BY owner_id
      ) AS held
      WHERE users.id = held.owner_id;

      -- The event log becomes the audit log: who, with what result, and a hash that chains each row to the one before.
      ALTER TABLE events
        ALTER subject_id DROP NOT NULL,
        ADD actor jsonb,
        ADD result text NOT NULL DEFAULT 'ok' CHECK (result IN ('ok', 'refused')),
        ADD hash bytea;
      CREATE TABLE event_head (
        single boolean PRIMARY KEY DEFAULT true CHECK (single),
        seq bigint NOT NULL,
        hash bytea NOT NULL
      );
      INSERT INTO event_head (seq, hash) VALUES (0, sha256('landfall'));
      -- They get their numbers again, this time with hashes. Nothing has read them by number so far.
      UPDATE events SET seq = NULL;
      -- For reading it as an audit log. They hold numbered rows only: what is appended costs its request no more.
      CREATE INDEX events_people_idx ON events (seq) WHERE actor IS NOT NULL AND seq IS NOT NULL;
      CREATE INDEX events_actor_idx ON events ((actor ->> 'userId'), seq) WHERE actor IS NOT NULL AND seq IS NOT NULL;
      CREATE INDEX events_type_idx ON events (type text_pattern_ops, seq) WHERE seq IS NOT NULL;
      CREATE INDEX events_refused_idx ON events (seq) WHERE result = 'refused' AND seq IS NOT NULL;
      CREATE INDEX events_created_at_idx ON events (created_at) WHERE seq IS NOT NULL;

      CREATE FUNCTION keep_events() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        -- The sequencer gives each row its number and hash, once.
        IF TG_OP = 'UPDATE' THEN
          IF OLD.seq IS NULL AND NEW.seq IS NOT NULL AND NEW.hash IS NOT NULL
            AND (NEW.id, NEW.type, NEW.subject_id, NEW.owner_id, NEW.data, NEW.actor, NEW.result, NEW.created_at)
              IS NOT DISTINCT FROM
              (OLD.id, OLD.type, OLD.subject_id, OLD.owner_id, OLD.data, OLD.actor, OLD.result, OLD.created_at) THEN
            RETURN NEW;
          END IF;
        END IF;
        RAISE EXCEPTION 'events are only ever appended';
      END $$;
      CREATE TRIGGER events_are_kept BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep_events();
      CREATE TRIGGER events_are_not_emptied BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION keep_events();
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
