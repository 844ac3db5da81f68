import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { ImageSettings } from '../../media/image-settings.js';
import { bigintColumn } from './columns.js';

export type FileStatus =
  | 'pending'
  | 'processing'
  | 'completed'
  | 'failed'
  | 'infected'
  | 'paused'
  | 'canceled';

/** Why a file or one of its steps failed; shown to the owner. */
export interface Problem {
  step: string;
  code: string;
  detail: string;
}

/** How one step of the processing ended. Such a step is not run again in the same run. */
export interface StepRecord {
  state: 'done' | 'failed' | 'skipped';
  /** Milliseconds that the step took. */
  ms: number;
  reason?: string;
}

/** A step for which an outside service will answer. */
export interface WaitingStep {
  state: 'waiting';
  /** The deadline of the answer (RFC 3339). */
  until: string;
  /** When the question was asked (RFC 3339). */
  since?: string;
  /** Names the question; see recordWaiting(). A worker of an older version leaves it out. */
  ask?: string;
  /** The service has answered that it failed: the attempt ends so when the job goes on. */
  failure?: { detail: string; retry: boolean };
}

@Entity('files')
export class File {
  /** The id of the upload. */
  @PrimaryColumn('uuid')
  id: string;

  @Column('uuid', { name: 'owner_id' })
  ownerId: string;

  @Column('uuid', { name: 'blob_id' })
  blobId: string;

  @Column('text')
  filename: string;

  /** Bytes. */
  @Column('bigint', { transformer: bigintColumn })
  size: number;

  /** Media type that the client declared. */
  @Column('text', { name: 'declared_type', nullable: true })
  declaredType: string | null;

  /** Media type that was recognised from the bytes; null until then, and when the type was not recognised. */
  @Column('text', { name: 'detected_type', nullable: true })
  detectedType: string | null;

  /** Media types that its upload token allows; null: any. */
  @Column('text', { name: 'allowed_types', array: true, nullable: true })
  allowedTypes: string[] | null;

  /** Hex; declared by the client. */
  @Column('text', { name: 'expected_sha256', nullable: true })
  expectedSha256: string | null;

  /** Hex; measured. */
  @Column('text', { nullable: true })
  sha256: string | null;

  /** The file that had the same bytes already when these were measured; it may be gone. Null: there was none. */
  @Column('uuid', { name: 'duplicate_of', nullable: true })
  duplicateOf: string | null;

  /** How the file is to be processed, as its owner has said; null: as others of its type. */
  @Column('jsonb', { nullable: true })
  settings: ImageSettings | null;

  @Column('text')
  status: FileStatus;

  /** The step that runs, or the last one that ran. */
  @Column('text', { nullable: true })
  step: string | null;

  /** Percent of the whole processing, 0 to 100. */
  @Column('integer')
  progress: number;

  /** The worker's last estimate of how long the rest of the processing takes; null when it is not known. */
  @Column('integer', { name: 'eta_seconds', nullable: true })
  etaSeconds: number | null;

  /** Part of the job's id, `<id>-<run>`; raised for every new job. */
  @Column('integer')
  run: number;

  /** The run whose job an admin has removed, so that lists of jobs leave it out; null: none. */
  @Column('integer', { name: 'removed_run', nullable: true })
  removedRun: number | null;

  /** Of the present run in the queue; see ProcessingJob. */
  @Column('smallint')
  priority: number;

  /** How often the present run was begun or taken over: the number of the attempt that may write. */
  @Column('integer')
  attempts: number;

  /** Attempts of the present run without interrupted ones; null: not counted, use `attempts`. */
  @Column('integer', { name: 'counted_attempts', nullable: true })
  countedAttempts: number | null;

  /** Where a hook wants the file to be delivered: a target, or `none`; null: where files of its type are. */
  @Column('text', { name: 'deliver_to', nullable: true })
  deliverTo: string | null;

  /** Whether the scan found the file clean. The file is not served before. */
  @Column('boolean')
  clean: boolean;

  /** Whether the bytes lie in quarantine; see core/files/quarantine.ts. */
  @Column('boolean', { name: 'in_quarantine', default: false })
  inQuarantine: boolean;

  /** When the stored bytes were found not to be those that were measured; null: they were not. The file is not served. */
  @Column('timestamptz', { name: 'corrupted_at', nullable: true })
  corruptedAt: Date | null;

  @Column('jsonb')
  steps: Record<string, StepRecord | WaitingStep>;

  @Column('jsonb')
  metadata: Record<string, unknown>;

  /** Stands in the place of an image until that is there, as in core/media/placeholder.ts; null: there is none. */
  @Column('text', { nullable: true })
  thumbhash: string | null;

  @Column('text', { name: 'dominant_color', nullable: true })
  dominantColor: string | null;

  /** Problems that do not make the file unusable. */
  @Column('jsonb')
  warnings: Problem[];

  @Column('jsonb', { nullable: true })
  error: Problem | null;

  @Column('timestamptz', { name: 'created_at' })
  createdAt: Date;

  @Column('timestamptz', { name: 'updated_at', default: () => 'now()' })
  updatedAt: Date;

  /** When the present run, or the last one, began to be processed. */
  @Column('timestamptz', { name: 'processing_since', nullable: true })
  processingSince: Date | null;

  @Column('timestamptz', { name: 'completed_at', nullable: true })
  completedAt: Date | null;

  /** When the file was put into the trash; null: it is not in the trash. */
  @Column('timestamptz', { name: 'deleted_at', nullable: true })
  deletedAt: Date | null;
}
