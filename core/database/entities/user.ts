import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

export type Role = 'user' | 'admin';

@Entity('users')
export class User {
  @PrimaryColumn('uuid')
  id: string;

  /** Lower-cased. Unique among accounts with a password; for other accounts the identity provider supplies it. */
  @Column('text')
  email: string;

  /** argon2id, PHC string; null for an account of the identity provider. */
  @Column('text', { name: 'password_hash', nullable: true })
  passwordHash: string | null;

  /** Issuer and subject of the identity provider, as a JSON array. */
  @Column('text', { name: 'external_id', nullable: true })
  externalId: string | null;

  @Column('text')
  role: Role;

  /** Bytes that this user may hold; -1: no limit; null: the default of the configuration. */
  @Column('bigint', { name: 'max_bytes', transformer: bigintColumn, nullable: true })
  maxBytes: number | null;

  /** Files that this user may hold; -1: no limit; null: the default of the configuration. */
  @Column('bigint', { name: 'max_files', transformer: bigintColumn, nullable: true })
  maxFiles: number | null;

  /** When an admin last set these limits; null: never. */
  @Column('timestamptz', { name: 'quota_changed_at', nullable: true })
  quotaChangedAt: Date | null;

  /** Bytes of files outside the trash, plus bytes reserved for uploads under way. See core/uploads/quota.ts. */
  @Column('bigint', { name: 'used_bytes', transformer: bigintColumn })
  usedBytes: number;

  @Column('bigint', { name: 'used_files', transformer: bigintColumn })
  usedFiles: number;

  /** When an admin disabled this account; null: it is enabled. */
  @Column('timestamptz', { name: 'disabled_at', nullable: true })
  disabledAt: Date | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
