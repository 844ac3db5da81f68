import { Column, Entity, PrimaryColumn } from 'typeorm';

export const SCOPES = ['upload', 'read', 'manage'] as const;

/** The operations that a key allows. */
export type Scope = (typeof SCOPES)[number];

/** Lets a program act for its owner. The secret itself is not stored. */
@Entity('api_keys')
export class ApiKey {
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'user_id' })
  userId: string;

  @Column('text')
  name: string;

  /** The public part of the key. It is shown to people, and the row is found by it. */
  @Column('text')
  prefix: string;

  /** SHA-256 of the whole key. */
  @Column('bytea', { name: 'secret_hash' })
  secretHash: Buffer;

  @Column('text', { array: true })
  scopes: Scope[];

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;

  /** Exact to the minute. */
  @Column('timestamptz', { name: 'last_used_at', nullable: true })
  lastUsedAt: Date | null;

  @Column('timestamptz', { name: 'expires_at', nullable: true })
  expiresAt: Date | null;

  @Column('timestamptz', { name: 'revoked_at', nullable: true })
  revokedAt: Date | null;
}
