import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Initial1763640000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE users (
        id uuid PRIMARY KEY,
        email text NOT NULL,
        password_hash text NOT NULL,
        role text NOT NULL CHECK (role IN ('user', 'admin')),
        created_at timestamptz NOT NULL DEFAULT now()
      );
      CREATE UNIQUE INDEX users_email_key ON users (email);

      CREATE TABLE sessions (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        token_hash bytea NOT NULL,
        expires_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
      );
      CREATE UNIQUE INDEX sessions_token_hash_key ON sessions (token_hash);
      CREATE INDEX sessions_user_id_idx ON sessions (user_id);
      CREATE INDEX sessions_expires_at_idx ON sessions (expires_at);

      CREATE TABLE blobs (
        id uuid PRIMARY KEY,
        key text NOT NULL,
        size bigint NOT NULL,
        refs integer NOT NULL DEFAULT 0 CHECK (refs >= 0),
        created_at timestamptz NOT NULL DEFAULT now()
      );
      CREATE UNIQUE INDEX blobs_key_key ON blobs (key);
      CREATE INDEX blobs_unreferenced_idx ON blobs (created_at) WHERE refs = 0;

      -- The lease columns change with every request and are in no index, so those updates stay HOT.
      CREATE TABLE uploads (
        id uuid PRIMARY KEY,
        owner_id uuid NOT NULL REFERENCES users (id),
        status text NOT NULL CHECK (status IN ('uploading', 'finished', 'expired', 'terminated')),
        "offset" bigint NOT NULL DEFAULT 0 CHECK ("offset" >= 0),
        length bigint CHECK (length >= "offset"),
        metadata jsonb NOT NULL DEFAULT '{}',
        storage_key text NOT NULL,
        lease_holder text,
        lease_epoch integer NOT NULL DEFAULT 0,
        lease_expires_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        finished_at timestamptz,
        discarded_at timestamptz
      ) WITH (fillfactor = 80);
      CREATE UNIQUE INDEX uploads_storage_key_key ON uploads (storage_key);
      CREATE INDEX uploads_unfinished_idx ON uploads (owner_id, id) WHERE status = 'uploading';
      CREATE INDEX uploads_discard_idx ON uploads (id) WHERE status IN ('expired', 'terminated') AND discarded_at IS NULL;

      CREATE TABLE files (
        id uuid PRIMARY KEY REFERENCES uploads (id),
        owner_id uuid NOT NULL REFERENCES users (id),
        blob_id uuid NOT NULL REFERENCES blobs (id),
        filename text NOT NULL,
        size bigint NOT NULL,
        declared_type text,
        detected_type text,
        expected_sha256 text,
        sha256 text,
        status text NOT NULL CHECK (status IN
          ('pending', 'processing', 'completed', 'failed', 'infected', 'paused', 'canceled')),
        step text,
        progress integer NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
        run integer NOT NULL DEFAULT 1,
        attempts integer NOT NULL DEFAULT 0,
        clean boolean NOT NULL DEFAULT false,
        steps jsonb NOT NULL DEFAULT '{}',
        metadata jsonb NOT NULL DEFAULT '{}',
        warnings jsonb NOT NULL DEFAULT '[]',
        error jsonb,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        completed_at timestamptz,
        deleted_at timestamptz
      ) WITH (fillfactor = 80);
      CREATE INDEX files_owner_idx ON files (owner_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;
      CREATE INDEX files_blob_id_idx ON files (blob_id);
      CREATE INDEX files_unfinished_idx ON files (id) WHERE status IN ('pending', 'processing');

      CREATE TABLE derivatives (
        file_id uuid NOT NULL REFERENCES files (id),
        name text NOT NULL,
        blob_id uuid NOT NULL REFERENCES blobs (id),
        content_type text NOT NULL,
        width integer NOT NULL,
        height integer NOT NULL,
        PRIMARY KEY (file_id, name)
      );
      CREATE INDEX derivatives_blob_id_idx ON derivatives (blob_id);

      CREATE TABLE events (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        seq bigint,
        type text NOT NULL,
        subject_id uuid NOT NULL,
        owner_id uuid,
        data jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now()
      );
      CREATE UNIQUE INDEX events_seq_key ON events (seq);
      CREATE INDEX events_unsequenced_idx ON events (id) WHERE seq IS NULL;
      CREATE INDEX events_subject_idx ON events (subject_id, id);
    `);
  }

  async down(): Promise<void> {
    throw new Error('Migrations go forward only: restore a backup instead');
  }
}
