import type { Actor } from '../database/entities/event.js';
import { File } from '../database/entities/file.js';
import { Upload } from '../database/entities/upload.js';
import { queryRows } from '../database/rows.js';
import { AppError } from '../errors.js';
import { insertFile } from '../files/insert.js';
import type { Logger } from '../log.js';
import { jobId } from '../queue/job.js';
import type { ProcessingQueue } from '../queue/queue.js';
import { BytesLost, type Part } from '../storage/storage.js';
import { type Tracer, traced } from '../tracing/tracer.js';
import {
  cleanUpAgain,
  commitProgress,
  explainLoss,
  type LedgerDeps,
  noteFailure,
  toStored,
} from './commit.js';
import { loseUpload, refuseUpload } from './end.js';
import { LeaseLost, UploadEnded } from './errors.js';
import { type UploadQuestion, UploadRefused } from './hooks.js';
import type { Lease } from './lease.js';

/*
 * How an upload whose bytes are all here becomes a file, always in this order: the object is assembled; a hook may refuse;
 * one statement writes the blob, the file row and the event, and ends the lease; the job is queued.
 */

export interface SettleDeps extends LedgerDeps {
  queue: ProcessingQueue;
  log: Logger;
  tracer?: Tracer | undefined;
}

interface SettleOptions {
  actor?: Actor | undefined;
  signal?: AbortSignal;
}

/**
 * Makes the file of an upload whose bytes are all here, and queues its job. May be called again. A job that cannot be
 * added now is added by the relay later: the file is safe, so the client is not told.
 * @param options.actor who sent the last byte; undefined: the reconciler settles the upload
 * @param options.signal gives up the assembly when it aborts
 * @throws {AppError} not_found, wrong_state, unavailable; {BytesLost}; {LeaseLost}; {UploadEnded}; {UploadRefused}
 */
export function settle(deps: SettleDeps, lease: Lease, options: SettleOptions = {}): Promise<File> {
  const attributes = { 'landfall.upload_id': lease.id };
  return traced(deps.tracer, 'settle', attributes, () => settleNow(deps, lease, options));
}

async function settleNow(deps: SettleDeps, lease: Lease, { actor, signal }: SettleOptions): Promise<File> {
  const { status, offset, length } = lease.upload;
  if (status === 'uploading') {
    if (offset !== length) throw incomplete(lease.upload);
    await assemble(deps, lease, signal);
    await askHook(deps, lease, actor);
  }
  const { file, isNew } = await createFile(deps, lease.id, actor);
  await addJobs(deps, [file], actor);
  // The statement that made the file has ended the lease.
  if (isNew) lease.leave();
  return file;
}

/**
 * Makes the object of an upload whose bytes are all here, unless it exists already. May be called again. The reason of a
 * failure is written to the upload's `error`, for its owner.
 * @throws {AppError} unavailable; {BytesLost}; {LeaseLost}; {UploadEnded}
 */
export async function assemble(deps: LedgerDeps, lease: Lease, signal?: AbortSignal): Promise<void> {
  const { upload } = lease;
  if (upload.objectKey !== null) return;
  const parts = await queryRows<Part>(
    deps.database,
    'SELECT number, size::float8 AS size, etag FROM upload_parts WHERE upload_id = $1 ORDER BY number',
    [upload.id],
  );
  try {
    const made = await deps.storage.uploads
      .complete(toStored(upload), parts, signal)
      .catch(async (error: unknown) => {
        await noteFailure(deps, lease, signal?.aborted ? undefined : whyNoFile(error));
        if (error instanceof BytesLost) await loseUpload(deps, lease);
        throw error;
      });
    await commitProgress(deps, lease, { offset: upload.offset, ...made });
  } catch (error) {
    // Another process may have ended or finished the upload, and cleaned up the store, before this object was made.
    await cleanUpAgain(deps, upload.id);
    throw error instanceof LeaseLost ? await explainLoss(deps, upload.id, error) : error;
  }
}

/** Tells the owner why an upload whose bytes are all here is not a file yet. */
function whyNoFile(error: unknown): Upload['error'] {
  const { code, detail, title } = error instanceof AppError ? error : new AppError('internal');
  return {
    code,
    detail: `All bytes have arrived, but no file could be made of them yet. ${detail ?? title}.`,
  };
}

/**
 * @param about.upload as it will be finished
 * @throws {UploadRefused} after the upload was ended; and errors of a hook that gives no answer
 */
export async function askHook(
  deps: SettleDeps,
  lease: Lease,
  actor: Actor | undefined,
  about: Omit<UploadQuestion, 'actor'> = { upload: lease.upload },
): Promise<void> {
  try {
    await deps.hooks?.beforeFinish?.({ ...about, actor: actor ?? null });
  } catch (error) {
    if (error instanceof UploadRefused) await refuseUpload(deps, lease, error);
    throw error;
  }
}

/**
 * Makes the file of an upload whose object exists. May be called again.
 * @param actor undefined: the system
 * @throws {AppError} not_found, wrong_state; {UploadEnded}
 */
export async function createFile(
  { database: { manager } }: Pick<LedgerDeps, 'database'>,
  id: string,
  actor: Actor | undefined,
): Promise<{ file: File; isNew: boolean }> {
  const made = await insertFile(manager, id, actor);
  if (made) return { file: made, isNew: true };
  const upload = await manager.getRepository(Upload).findOneBy({ id });
  if (!upload) throw new AppError('not_found');
  if (upload.status === 'uploading') throw incomplete(upload);
  if (upload.status !== 'finished') throw new UploadEnded();
  return { file: await manager.getRepository(File).findOneByOrFail({ id }), isNew: false };
}

export function incomplete({ offset, length }: Upload): AppError {
  return new AppError('wrong_state', { detail: `${offset} of ${length} bytes are stored` });
}

/**
 * Queues the jobs of the present runs of those files that are pending. A failure is logged: the relay adds the jobs later.
 */
export async function addJobs(
  { queue, log, tracer }: Pick<SettleDeps, 'queue' | 'log' | 'tracer'>,
  files: File[],
  actor: Actor | undefined,
): Promise<void> {
  const pending = files.filter(({ status }) => status === 'pending');
  if (pending.length === 0) return;
  const requestId = actor?.requestId;
  const traceparent = tracer?.current();
  const jobs = pending.map(({ id, run, priority, size }) => ({
    fileId: id,
    run,
    priority,
    size,
    requestId,
    ...(traceparent ? { traceparent } : {}),
  }));
  try {
    await queue.add(...jobs);
    for (const job of jobs) log.info({ requestId, uploadId: job.fileId, jobId: jobId(job) }, 'job queued');
  } catch (error) {
    const uploadIds = jobs.map(({ fileId }) => fileId);
    log.warn({ err: error, requestId, uploadIds }, 'jobs could not be queued; the relay will');
  }
}
