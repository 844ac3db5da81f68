import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/**
 * One stored object. Files and derivatives refer to blobs; `refs` counts the references. The row is written before the
 * object, so a crash leaves a row without a reference, never an object without a row. The reconciler deletes blobs
 * without a reference.
 */
@Entity('blobs')
export class Blob {
  @PrimaryColumn('uuid')
  id: string;

  /** Random and never used again, so a late write of a dead process cannot touch another object. */
  @Column('text')
  key: string;

  /** Bytes. */
  @Column('bigint', { transformer: bigintColumn })
  size: number;

  @Column('integer', { default: 0 })
  refs: number;

  /** When the object was marked for deletion. From then on the blob never gets a reference again. */
  @Column('timestamptz', { name: 'doomed_at', nullable: true })
  doomedAt: Date | null;

  /** Failed attempts to delete the object; see retries.ts. */
  @Column('integer', { default: 0 })
  failures: number;

  /** The earliest time of the next attempt; null: at any time. */
  @Column('timestamptz', { name: 'retry_at', nullable: true })
  retryAt: Date | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
