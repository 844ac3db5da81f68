import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/** The origin of a request, as far as it is known. */
export interface Actor {
  userId?: string;
  /** The session that authenticated the request, … */
  sessionId?: string;
  /** … or the API key, … */
  keyId?: string;
  /** … or the upload token; `userId` is then the token's owner. */
  uploadTokenId?: string;
  address?: string;
  userAgent?: string;
  requestId?: string;
}

/** One line of the append-only log. See core/events/append.ts. */
@Entity('events')
export class Event {
  /** The id that the row got in the inbox. */
  @PrimaryColumn('bigint')
  id: string;

  /** Gapless order of committed events; null while the row is in the inbox. */
  @Column('bigint', { transformer: bigintColumn, nullable: true })
  seq: number | null;

  /** Such as `file.completed`. */
  @Column('text')
  type: string;

  /** Upload, file, user, key, …; the type says which. Not a foreign key: the log outlives its subjects. */
  @Column('uuid', { name: 'subject_id', nullable: true })
  subjectId: string | null;

  @Column('uuid', { name: 'owner_id', nullable: true })
  ownerId: string | null;

  @Column('jsonb')
  data: Record<string, unknown>;

  /** The person, key or token that acted; null: the system itself. */
  @Column('jsonb', { nullable: true })
  actor: Actor | null;

  @Column('text', { default: 'ok' })
  result: 'ok' | 'refused';

  /** Chains the row to the previous one; see core/events/verify.ts. */
  @Column('bytea', { nullable: true })
  hash: Buffer | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
