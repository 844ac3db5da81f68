import { Column, Entity, PrimaryColumn } from 'typeorm';
import { bigintColumn } from './columns.js';

/** A stored object, or the part of a blob that it holds: all of its bytes. */
export interface BlobObject {
  /** Random and never used again, so a late write of a dead process cannot touch another object. */
  key: string;
  /** Bytes. */
  size: number;
}

/**
 * An immutable sequence of bytes, kept as an ordered list of stored objects, usually one. Files, derivatives and variants refer
 * to blobs; `refs` counts the references. The row is written before the objects, so a crash leaves a row without a
 * reference, never an object without a row. The reconciler deletes blobs without a reference. Only core/files/blobs.ts
 * reads `key` and `objects`.
 */
@Entity('blobs')
export class Blob {
  @PrimaryColumn('uuid')
  id: string;

  /** Key of the only object; null if `objects` names the objects. */
  @Column('text', { nullable: true })
  key: string | null;

  /** The objects in their order, where they are several or belong to other blobs too; null: the one with the key `key`. */
  @Column('jsonb', { nullable: true })
  objects: BlobObject[] | null;

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
