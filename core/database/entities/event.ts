import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/** One line of the append-only log. See core/events.ts. */
@Entity('events')
export class Event {
  @PrimaryGeneratedColumn('identity', { type: 'bigint' })
  id: string;

  /** Gapless order of committed events; null until the sequencer has seen the row. */
  @Column('bigint', { transformer: bigintColumn, nullable: true })
  seq: number | null;

  /** Such as `file.completed`. */
  @Column('text')
  type: string;

  /** Upload or file. Not a foreign key: the log outlives what it tells of. */
  @Column('uuid', { name: 'subject_id' })
  subjectId: string;

  @Column('uuid', { name: 'owner_id', nullable: true })
  ownerId: string | null;

  @Column('jsonb')
  data: Record<string, unknown>;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
