import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/** Lets a guest without an account send one file to its owner's account. The token itself is signed, not stored. */
@Entity('upload_tokens')
export class UploadToken {
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'owner_id' })
  ownerId: string;

  @Column('text', { nullable: true })
  label: string | null;

  /** Bytes; null: as large as the server takes. */
  @Column('bigint', { name: 'max_size', transformer: bigintColumn, nullable: true })
  maxSize: number | null;

  /** Media types such as `image/*` or `application/pdf`; null: any. */
  @Column('text', { array: true, nullable: true })
  types: string[] | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;

  /** The upload must begin before this time. */
  @Column('timestamptz', { name: 'expires_at' })
  expiresAt: Date;

  @Column('timestamptz', { name: 'used_at', nullable: true })
  usedAt: Date | null;

  @Column('timestamptz', { name: 'revoked_at', nullable: true })
  revokedAt: Date | null;
}
