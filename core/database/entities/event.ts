import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/** Who makes a request, as far as that is known. */
export interface Actor {
  userId?: string;
  /** How: by a session of this id, … */
  sessionId?: string;
  /** … by this API key, … */
  keyId?: string;
  /** … or by this upload token, which is its owner's. */
  uploadTokenId?: string;
  address?: string;
  userAgent?: string;
  requestId?: string;
}

/** One line of the append-only log. See core/events/append.ts. */
@Entity('events')
export class Event {
  /** Of the inbox. */
  @PrimaryColumn('bigint')
  id: string;

  /** Gapless order of committed events; null while the row is in the inbox. */
  @Column('bigint', { transformer: bigintColumn, nullable: true })
  seq: number | null;

  /** Such as `file.completed`. */
  @Column('text')
  type: string;

  /** Upload, file, user, key, …; the type says which. Not a foreign key: the log outlives what it tells of. */
  @Column('uuid', { name: 'subject_id', nullable: true })
  subjectId: string | null;

  @Column('uuid', { name: 'owner_id', nullable: true })
  ownerId: string | null;

  @Column('jsonb')
  data: Record<string, unknown>;

  /** Who did it; null: the system itself. */
  @Column('jsonb', { nullable: true })
  actor: Actor | null;

  @Column('text', { default: 'ok' })
  result: 'ok' | 'refused';

  /** Chains the row to the one with the number before; see core/events/verify.ts. */
  @Column('bytea', { nullable: true })
  hash: Buffer | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
