import { Column, Entity, PrimaryColumn } from 'typeorm';

/** The names of derivatives: they are parts of addresses. */
export const DERIVATIVE_NAME = /^[a-z0-9]+(-[a-z0-9]+)*$/;

/** Something made from a file, such as a thumbnail. */
@Entity('derivatives')
export class Derivative {
  @PrimaryColumn('uuid', { name: 'file_id' })
  fileId: string;

  /** As DERIVATIVE_NAME: `thumbnail-small`, `thumbnail-medium`, `thumbnail-large`, and those of other steps. */
  @PrimaryColumn('text')
  name: string;

  @Column('uuid', { name: 'blob_id' })
  blobId: string;

  @Column('text', { name: 'content_type' })
  contentType: string;

  /** Pixels; null for what is not a picture. */
  @Column('integer', { nullable: true })
  width: number | null;

  @Column('integer', { nullable: true })
  height: number | null;
}
