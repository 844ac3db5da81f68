import { v7 as uuidv7 } from 'uuid';
import type { Actor } from '../../core/database/entities/event.js';
import type { File } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { createUpload } from '../../core/uploads/create.js';
import { checkMetadata } from '../../core/uploads/description.js';
import { abandonUpload } from '../../core/uploads/end.js';
import { UploadEnded } from '../../core/uploads/errors.js';
import type { Lease, Leases } from '../../core/uploads/lease.js';
import { type ByteSource, bytesLeft, receive } from '../../core/uploads/receive.js';
import { type SettleDeps, settle } from '../../core/uploads/settle.js';
import type { Principal } from '../auth/principal.js';
import { ofAllowedType, type TypeCheckDeps } from './type-check.js';

/*
 * Receives one file in one request from a client without tus and passes it to the ledger. Such an upload
 * cannot be resumed. If it does not complete, the upload is ended, and its quota and its upload token are
 * given back, so that the client can try again.
 */

export interface PlainUploadDeps extends SettleDeps, TypeCheckDeps {
  leases: Leases;
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
  /** Opens the bytes. @param most how many of them are taken */
  open(most: number): ByteSource;
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
  const row = await createUpload(deps, {
    id: uuidv7(),
    ownerId: principal.userId,
    length,
    ...checkMetadata(incoming.metadata),
    leaseHolder: deps.leases.holder,
    actor,
    token: principal.uploadToken,
  });
  const lease = deps.leases.adopt(row, sender.onRequested);
  try {
    const sha256 = await storeBytes(deps, sender, incoming, lease);
    const { expectedSha256: announced } = row;
    if (announced && announced !== sha256) {
      throw new AppError('checksum_mismatch', {
        detail: `The SHA-256 of what has arrived is ${sha256}; ${announced} was announced`,
      });
    }
    return { file: await settle(deps, lease, { actor }), sha256 };
  } catch (error) {
    await giveUp(deps, sender, lease);
    throw error;
  } finally {
    await lease.release();
  }
}

/** Stores all bytes. Returns their SHA-256. */
async function storeBytes(
  deps: PlainUploadDeps,
  { stopped }: Sender,
  { open }: IncomingFile,
  lease: Lease,
): Promise<string> {
  const { declaredType, allowedTypes: types } = lease.upload;
  const body = open(bytesLeft(deps, lease));
  const source = types ? ofAllowedType(deps, { types, declaredType, stopped }, body) : body;
  const options = { stop: stopped, digests: ['sha256'] as const, last: true };
  const digests = await receive(deps, lease, source, options).catch((error: unknown) => {
    // A decoder or form parser reports a body that we have cut short as broken.
    throw stopped.aborted ? shutsDown(error) : error;
  });
  if (lease.upload.offset !== lease.upload.length) throw shutsDown();
  return digests.sha256.toString('hex');
}

/** The error for a body that this server has cut short. */
export function shutsDown(cause?: unknown): AppError {
  return new AppError('unavailable', {
    detail: 'This server is shutting down: send the file again',
    cause,
    retryable: true,
  });
}

/** Ends the upload and returns its token. If that fails too, the upload expires like any abandoned one. */
async function giveUp(deps: PlainUploadDeps, { principal, actor }: Sender, lease: Lease): Promise<void> {
  await abandonUpload(deps, lease, actor, principal.uploadToken?.id).catch((error: unknown) => {
    if (!(error instanceof UploadEnded))
      deps.log.warn({ err: error, uploadId: lease.id }, 'upload not ended');
  });
}
