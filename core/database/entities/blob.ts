import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/**
 * One stored object. Files and derivatives refer to blobs; `refs` counts them. A row with no reference is an
 * object to delete: it is written before the object is, so that a crash leaves a row to clean up, never bytes
 * that nobody knows.
 */
@Entity('blobs')
export class Blob {
  @PrimaryColumn('uuid')
  id: string;

  /** Random and never used again: a late write of a dead process can touch no other object. */
  @Column('text')
  key: string;

  /** Bytes. */
  @Column('bigint', { transformer: bigintColumn })
  size: number;

  @Column('integer', { default: 0 })
  refs: number;

  /** Since when the object is to be deleted: from then on the blob never gets a reference again. */
  @Column('timestamptz', { name: 'doomed_at', nullable: true })
  doomedAt: Date | null;

  /** Failed attempts to delete the object; see retries.ts. */
  @Column('integer', { default: 0 })
  failures: number;

  /** Not tried again before; null: at any time. */
  @Column('timestamptz', { name: 'retry_at', nullable: true })
  retryAt: Date | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
