import { Column, Entity, PrimaryColumn } from 'typeorm';

/** Lets one person register where registration is not open. */
@Entity('invitations')
export class Invitation {
  @PrimaryColumn('uuid')
  id: string;

  /** SHA-256 of the token. */
  @Column('bytea', { name: 'token_hash' })
  tokenHash: Buffer;

  /** Lower-cased; null: valid for any address. */
  @Column('text', { nullable: true })
  email: string | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;

  @Column('timestamptz', { name: 'expires_at' })
  expiresAt: Date;

  @Column('timestamptz', { name: 'used_at', nullable: true })
  usedAt: Date | null;
}
