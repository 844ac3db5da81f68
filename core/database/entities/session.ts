import { Column, Entity, PrimaryColumn } from 'typeorm';

/** One sign-in of one browser or program, with all refresh tokens that followed from it. */
@Entity('sessions')
export class Session {
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'user_id' })
  userId: string;

  /** Moves on with each refresh. */
  @Column('timestamptz', { name: 'expires_at' })
  expiresAt: Date;

  @Column('timestamptz', { name: 'last_used_at', default: () => 'now()' })
  lastUsedAt: Date;

  /** The address from which it was last used. */
  @Column('text', { nullable: true })
  address: string | null;

  @Column('text', { name: 'user_agent', nullable: true })
  userAgent: string | null;

  /** Seals the session's refresh tokens; null: an earlier version opened it, and it was not refreshed since. */
  @Column('bytea', { name: 'token_key', nullable: true })
  tokenKey: Buffer | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
