import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { ImageSettings } from '../../media/image-settings.js';
import type { UploadState } from '../../storage/storage.js';
import { bigintColumn } from './columns.js';
import type { Problem } from './file.js';

/**
 * Uploads that are to become a file; partial uploads, whose bytes become part of final uploads; and final uploads, which
 * are made of partial ones and become a file too. See core/uploads/concatenate.ts.
 */
export type UploadKind = 'file' | 'partial' | 'final';

export type UploadStatus = 'uploading' | 'finished' | 'expired' | 'terminated';

/** The ledger row of one upload: its durably received bytes, and the lease to write more. */
@Entity('uploads')
export class Upload {
  /** UUIDv7; the file that the upload becomes has the same id. */
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'owner_id' })
  ownerId: string;

  @Column('text', { default: 'file' })
  kind: UploadKind;

  @Column('text')
  status: UploadStatus;

  /** Bytes that are on stable storage, from the first one without a gap. */
  @Column('bigint', { transformer: bigintColumn })
  offset: number;

  /** Bytes; null while the length is deferred. */
  @Column('bigint', { transformer: bigintColumn, nullable: true })
  length: number | null;

  /** The client's metadata, decoded and checked; null stands for a key without a value. */
  @Column('jsonb')
  metadata: Record<string, string | null>;

  /** Upload-Metadata as the client sent it; null if it was described in another way, or by an older version. */
  @Column('text', { name: 'metadata_header', nullable: true })
  metadataHeader: string | null;

  /** Name of the file that the upload becomes; its id if the client gave none; null once the upload has ended. */
  @Column('text', { nullable: true })
  filename: string | null;

  /** Media type that the client declared. */
  @Column('text', { name: 'declared_type', nullable: true })
  declaredType: string | null;

  /** Hex in lower case; declared by the client. */
  @Column('text', { name: 'expected_sha256', nullable: true })
  expectedSha256: string | null;

  /** Upload-Concat of a final upload, as the client sent it; null for other uploads. */
  @Column('text', { name: 'concat_header', nullable: true })
  concatHeader: string | null;

  /** How the file is to be processed; null: as others of its type. */
  @Column('jsonb', { nullable: true })
  settings: ImageSettings | null;

  /** Where a hook wants the file to be delivered: a target, or `none`; null: where files of its type are. */
  @Column('text', { name: 'deliver_to', nullable: true })
  deliverTo: string | null;

  /** Warnings for the file that the upload becomes; null: none. */
  @Column('jsonb', { nullable: true })
  warnings: Problem[] | null;

  /** Whether the client sends the bytes to the store itself, at addresses that the server has signed. */
  @Column('boolean')
  direct: boolean;

  /** Prefix of the keys of all objects that are stored for this upload. */
  @Column('text', { name: 'storage_key' })
  storageKey: string;

  /** The store's own state between two appends; null before the first append. */
  @Column('jsonb', { name: 'storage_state', nullable: true })
  storageState: UploadState | null;

  /** Key of the whole object; null until it exists. */
  @Column('text', { name: 'object_key', nullable: true })
  objectKey: string | null;

  /** Of a partial upload: the blob that holds its bytes, with a reference; null until they are all here. */
  @Column('uuid', { name: 'blob_id', nullable: true })
  blobId: string | null;

  /** Whether the store may hold something under `storageKey` that the ledger does not name, or no longer needs. */
  @Column('boolean')
  untidy: boolean;

  /** The upload token that a guest began the upload with; null: none. */
  @Column('uuid', { name: 'upload_token_id', nullable: true })
  uploadTokenId: string | null;

  /** Bytes; the limit of its upload token or of its declared type, whichever is smaller; null: none. */
  @Column('bigint', { name: 'max_size', transformer: bigintColumn, nullable: true })
  maxSize: number | null;

  /** Media types; a limit of its upload token. */
  @Column('text', { name: 'allowed_types', array: true, nullable: true })
  allowedTypes: string[] | null;

  /** Bytes that count against the owner's quota until the upload is finished. After that the file's size counts. */
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

  /** Moves on with each append, and with each use of a partial upload. */
  @Column('timestamptz', { name: 'expires_at' })
  expiresAt: Date;

  /** When its object became a blob. */
  @Column('timestamptz', { name: 'finished_at', nullable: true })
  finishedAt: Date | null;

  /** When the bytes of an expired or terminated upload were deleted; null: still to do. */
  @Column('timestamptz', { name: 'discarded_at', nullable: true })
  discardedAt: Date | null;

  /** Of a direct upload: the time until which clients can send parts to their signed addresses. */
  @Column('timestamptz', { name: 'addresses_until', nullable: true })
  addressesUntil: Date | null;

  /** Why there is no file yet although all bytes are here; null: nothing is known to be wrong. */
  @Column('jsonb', { nullable: true })
  error: Pick<Problem, 'code' | 'detail'> | null;

  /** How often the hook was asked whether this upload may become a file, … */
  @Column('integer', { name: 'finish_asked', default: 0 })
  finishAsked: number;

  /** … and whether it may be deleted. */
  @Column('integer', { name: 'end_asked', default: 0 })
  endAsked: number;

  /** How often the reconciler has failed to make the object, or to clean up the store; see retries.ts. */
  @Column('integer', { default: 0 })
  failures: number;

  /** The reconciler does not try again, or does not clean up, before this time; null: at any time. */
  @Column('timestamptz', { name: 'retry_at', nullable: true })
  retryAt: Date | null;
}
