import { Column, Entity, PrimaryColumn } from 'typeorm';

/** Something made from a file, such as a thumbnail. */
@Entity('derivatives')
export class Derivative {
  @PrimaryColumn('uuid', { name: 'file_id' })
  fileId: string;

  /** `thumbnail-small`, `thumbnail-medium`, `thumbnail-large`. */
  @PrimaryColumn('text')
  name: string;

  @Column('uuid', { name: 'blob_id' })
  blobId: string;

  @Column('text', { name: 'content_type' })
  contentType: string;

  /** Pixels. */
  @Column('integer')
  width: number;

  @Column('integer')
  height: number;
}
