import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { UploadState } from '../../storage/storage.js';
import { bigintColumn } from './columns.js';
import type { Problem } from './file.js';

export type UploadStatus = 'uploading' | 'finished' | 'expired' | 'terminated';

/** The ledger of one upload: what has been received durably, and who may write now. */
@Entity('uploads')
export class Upload {
  /** UUIDv7; the file that comes of it bears the same id. */
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'owner_id' })
  ownerId: string;

  @Column('text')
  status: UploadStatus;

  /** Bytes that are on stable storage, from the first one without a gap. */
  @Column('bigint', { transformer: bigintColumn })
  offset: number;

  /** Bytes; null while the length is deferred. */
  @Column('bigint', { transformer: bigintColumn, nullable: true })
  length: number | null;

  /** What the client said of the file, decoded and checked; null is a key without a value. */
  @Column('jsonb')
  metadata: Record<string, string | null>;

  /** Upload-Metadata as the client sent it; null if it was described in another way, or by an older version. */
  @Column('text', { name: 'metadata_header', nullable: true })
  metadataHeader: string | null;

  /** For the file that comes of it; null: none. */
  @Column('jsonb', { nullable: true })
  warnings: Problem[] | null;

  /** Whether the client sends the bytes to the store itself, at addresses that the server has signed. */
  @Column('boolean')
  direct: boolean;

  /** What the keys of all that is stored for this upload begin with. */
  @Column('text', { name: 'storage_key' })
  storageKey: string;

  /** What the store remembers between two appends; null before the first. */
  @Column('jsonb', { name: 'storage_state', nullable: true })
  storageState: UploadState | null;

  /** Key of the whole object; null until it exists. */
  @Column('text', { name: 'object_key', nullable: true })
  objectKey: string | null;

  /** Whether the store may hold something under `storageKey` that the ledger does not name. */
  @Column('boolean')
  untidy: boolean;

  /** The token that let somebody without an account begin it. */
  @Column('uuid', { name: 'upload_token_id', nullable: true })
  uploadTokenId: string | null;

  /** Bytes; a limit of its token. */
  @Column('bigint', { name: 'max_size', transformer: bigintColumn, nullable: true })
  maxSize: number | null;

  /** Media types; a limit of its token. */
  @Column('text', { name: 'allowed_types', array: true, nullable: true })
  allowedTypes: string[] | null;

  /** Bytes that count against its owner's quota while it is not finished; then the file's size does. */
  @Column('bigint', { name: 'reserved_bytes', transformer: bigintColumn })
  reservedBytes: number;

  @Column('text', { name: 'lease_holder', nullable: true })
  leaseHolder: string | null;

  /** Raised with each lease; a write that names an older epoch changes nothing. */
  @Column('integer', { name: 'lease_epoch' })
  leaseEpoch: number;

  @Column('timestamptz', { name: 'lease_expires_at', nullable: true })
  leaseExpiresAt: Date | null;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;

  /** Moves on with each append. */
  @Column('timestamptz', { name: 'expires_at' })
  expiresAt: Date;

  @Column('timestamptz', { name: 'finished_at', nullable: true })
  finishedAt: Date | null;

  /** When the bytes of an expired or terminated upload were deleted; null: still to do. */
  @Column('timestamptz', { name: 'discarded_at', nullable: true })
  discardedAt: Date | null;

  /** Of a direct upload: until when clients have addresses to which they can send parts. */
  @Column('timestamptz', { name: 'addresses_until', nullable: true })
  addressesUntil: Date | null;

  /** Why there is no file yet although all bytes are here; null: nothing is known to be wrong. */
  @Column('jsonb', { nullable: true })
  error: Pick<Problem, 'code' | 'detail'> | null;

  /** How often the reconciler has failed to make the object, or to delete what is left; see retries.ts. */
  @Column('integer', { default: 0 })
  failures: number;

  /** The reconciler does not try again before; null: at any time. */
  @Column('timestamptz', { name: 'retry_at', nullable: true })
  retryAt: Date | null;
}
