import { createHash, type Hash } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import type { File } from '../../core/database/entities/file.js';
import type { Upload } from '../../core/database/entities/upload.js';
import { AppError } from '../../core/errors.js';
import { createUpload } from '../../core/uploads/create.js';
import { checkMetadata } from '../../core/uploads/description.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { type FinishDeps, finishAndQueue } from '../../core/uploads/finish.js';
import type { Lease, Leases } from '../../core/uploads/lease.js';
import { appendToUpload, completeUpload, declareLength } from '../../core/uploads/ledger.js';
import { withinQuota } from '../../core/uploads/quota.js';
import type { Principal } from '../auth/principal.js';
import { ofAllowedType, type TypeCheckDeps } from './type-check.js';

/*
 * Receives one file in one request from a client without tus and passes it to the ledger. Such an upload
 * cannot be resumed. If it does not complete, the upload is ended, and its quota and its upload token are
 * given back, so that the client can try again.
 */

export interface PlainUploadDeps extends FinishDeps, TypeCheckDeps {
  leases: Leases;
  /** Bytes. */
  maxUploadSize: number;
}

/** The sender of the file. */
export interface Sender {
  principal: Principal;
  actor: Actor;
  /** Called when another request wants the upload, or when the process shuts down. Returns whether this request stops. */
  onRequested: () => boolean;
  /** Aborts when the body is cut short because the process shuts down. */
  stopped: AbortSignal;
}

export interface IncomingFile {
  metadata: Record<string, string>;
  /** Bytes; null: known only after the last byte. */
  length: number | null;
  /** Opens the bytes. @param limit bytes; more bytes throw too_large */
  open(limit: number): AsyncIterable<Uint8Array>;
  /** Ends the body at the bytes that have arrived. */
  end(): void;
}

export interface ReceivedFile {
  file: File;
  /** Of the bytes as received; hex. */
  sha256: string;
}

/**
 * Stores a file and queues its job.
 * @throws {AppError} invalid_request; too_large; quota_exceeded; type_not_allowed; unauthenticated;
 * checksum_mismatch when the bytes do not match `sha256` in the metadata; storage_full; unavailable; and the
 * errors of the source
 */
export async function receiveFile(
  deps: PlainUploadDeps,
  sender: Sender,
  incoming: IncomingFile,
): Promise<ReceivedFile> {
  const { principal, actor } = sender;
  const { length } = incoming;
  if (length !== null && length > deps.maxUploadSize) {
    throw new AppError('too_large', { detail: `At most ${deps.maxUploadSize} bytes are taken` });
  }
  const description = checkMetadata(incoming.metadata);
  const row = await createUpload(deps, {
    id: uuidv7(),
    ownerId: principal.userId,
    length,
    ...description,
    leaseHolder: deps.leases.holder,
    actor,
    token: principal.uploadToken,
  });
  const lease = deps.leases.adopt(row, sender.onRequested);
  try {
    const sha256 = await storeBytes(deps, sender, incoming, row);
    const { sha256: announced } = description.metadata;
    if (announced && announced.toLowerCase() !== sha256) {
      throw new AppError('checksum_mismatch', {
        detail: `The SHA-256 of what has arrived is ${sha256}; ${announced} was announced`,
      });
    }
    const file = await finishAndQueue(deps, row.id, actor);
    lease.leave();
    return { file, sha256 };
  } catch (error) {
    await giveUp(deps, sender, lease);
    throw error;
  }
}

/** Writes all bytes and assembles the object of the upload. Returns the SHA-256 of the bytes. */
async function storeBytes(
  deps: PlainUploadDeps,
  { stopped }: Sender,
  { open, end, length }: IncomingFile,
  row: Upload,
): Promise<string> {
  const most = length ?? Math.min(deps.maxUploadSize, row.maxSize ?? Number.POSITIVE_INFINITY);
  const hash = createHash('sha256');
  const { metadata, allowedTypes: types } = row;
  const declaredType = metadata.filetype || metadata.type || null;
  const body = open(most);
  const allowed = types ? ofAllowedType(deps, { types, declaredType, stopped }, body) : body;
  const bytes = hashing(allowed, hash);
  const epoch = row.leaseEpoch;
  const source = length === null ? withinQuota(deps, row, epoch, bytes) : bytes;
  const upload = await appendToUpload(deps, row, epoch, source, { hurry: stopped, onFailure: end }).catch(
    (error: unknown) => {
      // A decoder or form parser reports a body that we have cut short as broken.
      throw stopped.aborted ? shutsDown(error) : error;
    },
  );
  const isWhole = length === null ? !stopped.aborted : upload.offset === length;
  if (!isWhole) throw shutsDown();
  const declared = length === null ? await declareLength(deps, upload, epoch, upload.offset) : upload;
  await completeUpload(deps, declared, epoch);
  return hash.digest('hex');
}

/** The error for a body that this server has cut short. */
export function shutsDown(cause?: unknown): AppError {
  return new AppError('unavailable', {
    detail: 'This server is shutting down: send the file again',
    cause,
    retryable: true,
  });
}

/** Yields the chunks of `source` and updates `hash` with them. */
async function* hashing(source: AsyncIterable<Uint8Array>, hash: Hash): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

/** Ends the upload and returns its token. If that fails too, the upload expires like any abandoned one. */
async function giveUp(deps: PlainUploadDeps, { principal, actor }: Sender, lease: Lease): Promise<void> {
  const { id } = lease.upload;
  try {
    await terminateUpload(deps, id, actor, { returnToken: principal.uploadToken?.id });
    lease.leave();
  } catch (error) {
    const isOver = error instanceof AppError && ['gone', 'not_found'].includes(error.code);
    if (!isOver) deps.log.warn({ err: error, uploadId: id }, 'upload not ended');
    await lease.release().catch(() => {});
  }
}
