import type { DataSource, EntityManager } from 'typeorm';
import { insertBlob, referenceBlobs, releaseBlobs } from './blobs.js';
import { Blob } from './database/entities/blob.js';
import { Derivative } from './database/entities/derivative.js';
import { File, type FileStatus, type Problem, type StepRecord } from './database/entities/file.js';
import type { Upload } from './database/entities/upload.js';
import { countChanged, queryEntities } from './database/rows.js';
import { AppError } from './errors.js';
import { appendEvents, type EventType } from './events.js';

/*
 * The file row and its state machine: the only place that changes a status. Each change is one UPDATE that
 * names the states it may come from and the run it belongs to, and leaves an event in the same transaction. A
 * worker that lost its job therefore changes nothing, and each file is completed exactly once.
 */

const TRANSITIONS: Record<FileStatus, readonly FileStatus[]> = {
  pending: ['processing', 'failed', 'paused', 'canceled'],
  processing: ['completed', 'failed', 'infected', 'pending', 'paused', 'canceled'],
  completed: ['pending'],
  failed: ['pending'],
  infected: ['pending'],
  paused: ['pending', 'canceled'],
  canceled: ['pending'],
};

/** Whether a file may go from one status to another. */
export function canChange(from: FileStatus, to: FileStatus): boolean {
  return TRANSITIONS[from].includes(to);
}

/** A file as one run of its processing knows it. */
type FileRun = Pick<File, 'id' | 'run' | 'ownerId'>;

/** Something made from a file, its bytes stored and not yet referred to. */
export interface NewDerivative {
  name: string;
  blob: Blob;
  contentType: string;
  /** Pixels. */
  width: number;
  height: number;
}

/** What a step found out; undefined leaves the column as it is. */
export interface Facts {
  detectedType?: string | null;
  sha256?: string;
  clean?: boolean;
  /** What the scan found; it ends the run as infected. */
  threat?: string;
  /** Added to what other steps wrote. */
  metadata?: Record<string, unknown>;
  derivatives?: NewDerivative[];
  warnings?: Problem[];
}

/** Columns that go with a change of status. */
interface StatusColumns {
  error?: Problem | null;
  progress?: number;
  step?: string | null;
  steps?: Record<string, StepRecord>;
}

/** Moves a file to another status. @throws {AppError} wrong_state, not_found */
async function changeStatus(
  manager: EntityManager,
  file: FileRun,
  to: FileStatus,
  columns: StatusColumns,
  event: EventType,
): Promise<void> {
  const from = (Object.keys(TRANSITIONS) as FileStatus[]).filter((status) => canChange(status, to));
  const changed = await countChanged(
    manager,
    `UPDATE files
     SET status = $3, error = $5, progress = coalesce($6, progress), step = coalesce($7, step),
         steps = steps || $8::jsonb,
         completed_at = CASE WHEN $3 = 'completed' THEN now() END, updated_at = now()
     WHERE id = $1 AND run = $2 AND status = ANY ($4)`,
    [
      file.id,
      file.run,
      to,
      from,
      columns.error ? JSON.stringify(columns.error) : null,
      columns.progress ?? null,
      columns.step ?? null,
      JSON.stringify(columns.steps ?? {}),
    ],
  );
  if (changed === 0) {
    const now = await manager.getRepository(File).findOneBy({ id: file.id });
    if (!now) throw new AppError('not_found');
    throw new AppError('wrong_state', {
      detail: `The file is ${now.status} (run ${now.run}); it cannot become ${to} (run ${file.run})`,
    });
  }
  await appendEvents(manager, [
    {
      type: event,
      subjectId: file.id,
      ownerId: file.ownerId,
      data: { run: file.run, ...(columns.error ? { error: columns.error } : {}) },
    },
  ]);
}

/** Writes the row of a finished upload as `pending`, with its blob and its event, in the caller's transaction. */
export async function insertFile(manager: EntityManager, upload: Upload): Promise<File> {
  const { metadata } = upload;
  const blobId = await insertBlob(manager, upload.storageKey, upload.offset);
  const file = manager.create(File, {
    id: upload.id,
    ownerId: upload.ownerId,
    blobId,
    filename: metadata.filename || metadata.name || upload.id,
    size: upload.offset,
    declaredType: metadata.filetype || metadata.type || null,
    expectedSha256: metadata.sha256?.toLowerCase() || null,
    detectedType: null,
    sha256: null,
    status: 'pending',
    step: null,
    progress: 0,
    run: 1,
    attempts: 0,
    clean: false,
    steps: {},
    metadata: {},
    warnings: [],
    error: null,
    createdAt: new Date(),
    completedAt: null,
    deletedAt: null,
  });
  await manager.getRepository(File).insert(file as never);
  await appendEvents(manager, [
    { type: 'file.created', subjectId: file.id, ownerId: file.ownerId, data: { size: file.size } },
  ]);
  return file;
}

/**
 * Begins an attempt of a run, or takes it over from a worker that died.
 * @param step where a run begins
 * @returns undefined if there is nothing to do any more: the file is done, gone, or has a newer run
 */
export async function startAttempt(
  database: DataSource,
  id: string,
  run: number,
  step: string,
): Promise<{ file: File; blob: Blob } | undefined> {
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      `UPDATE files SET attempts = attempts + 1, step = coalesce(step, $3), updated_at = now()
       WHERE id = $1 AND run = $2 AND status IN ('pending', 'processing') RETURNING *`,
      [id, run, step],
    );
    if (!file) return undefined;
    if (file.status === 'pending') {
      await changeStatus(manager, file, 'processing', {}, 'file.processing');
      file.status = 'processing';
    }
    const blob = await manager.getRepository(Blob).findOneByOrFail({ id: file.blobId });
    return { file, blob };
  });
}

/** Shows where a run is, without an event. @param progress percent of the whole processing */
export async function showProgress(
  database: DataSource,
  file: FileRun,
  step: string,
  progress: number,
): Promise<void> {
  await database.query(
    `UPDATE files SET step = $3, progress = $4, updated_at = now()
     WHERE id = $1 AND run = $2 AND status = 'processing'`,
    [file.id, file.run, step, progress],
  );
}

/** Keeps the reason of an attempt that failed and will be followed by another. */
export async function recordAttemptError(database: DataSource, file: FileRun, error: Problem): Promise<void> {
  await database.query(
    `UPDATE files SET error = $3, updated_at = now() WHERE id = $1 AND run = $2 AND status = 'processing'`,
    [file.id, file.run, JSON.stringify(error)],
  );
}

/** How a step ended and what it found out. */
export interface StepResult {
  step: string;
  record: StepRecord;
  facts: Facts;
}

/**
 * Keeps what steps found out and that they need not run again, with an event for each.
 * @param next where the run is after that
 * @throws {AppError} gone when the run is no longer the file's present one
 */
export async function recordSteps(
  database: DataSource,
  file: FileRun,
  results: StepResult[],
  next: { step: string; progress: number },
): Promise<void> {
  const facts = results.map((result) => result.facts);
  const merged: Facts = Object.assign({}, ...facts);
  const records = Object.fromEntries(results.map(({ step, record }) => [step, record]));
  await database.transaction(async (manager) => {
    const changed = await countChanged(
      manager,
      `UPDATE files
       SET step = $3, progress = $4, steps = steps || $5::jsonb,
           detected_type = CASE WHEN $6 THEN $7 ELSE detected_type END,
           sha256 = coalesce($8, sha256), clean = coalesce($9, clean),
           metadata = metadata || $10::jsonb, warnings = warnings || $11::jsonb, updated_at = now()
       WHERE id = $1 AND run = $2 AND status = 'processing'`,
      [
        file.id,
        file.run,
        next.step,
        next.progress,
        JSON.stringify(records),
        merged.detectedType !== undefined,
        merged.detectedType ?? null,
        merged.sha256 ?? null,
        merged.clean ?? null,
        JSON.stringify(Object.assign({}, ...facts.map(({ metadata }) => metadata))),
        JSON.stringify(facts.flatMap(({ warnings }) => warnings ?? [])),
      ],
    );
    if (changed === 0) throw new AppError('gone', { detail: 'This run is over' });
    const derivatives = facts.flatMap((found) => found.derivatives ?? []);
    if (derivatives.length > 0) await replaceDerivatives(manager, file.id, derivatives);
    await appendEvents(
      manager,
      results.map(({ step, record }) => ({
        type: 'file.step',
        subjectId: file.id,
        ownerId: file.ownerId,
        data: { step, ...record },
      })),
    );
  });
}

async function replaceDerivatives(
  manager: EntityManager,
  fileId: string,
  derivatives: NewDerivative[],
): Promise<void> {
  const names = derivatives.map((derivative) => derivative.name);
  const replaced = await queryEntities(
    manager,
    Derivative,
    'DELETE FROM derivatives WHERE file_id = $1 AND name = ANY ($2) RETURNING *',
    [fileId, names],
  );
  await releaseBlobs(
    manager,
    replaced.map((derivative) => derivative.blobId),
  );
  await referenceBlobs(
    manager,
    derivatives.map(({ blob }) => blob.id),
  );
  await manager
    .getRepository(Derivative)
    .insert(derivatives.map(({ blob, ...derivative }) => ({ ...derivative, fileId, blobId: blob.id })));
}

/** Ends a run well. @throws {AppError} wrong_state */
export async function completeFile(database: DataSource, file: FileRun): Promise<void> {
  await database.transaction((manager) =>
    changeStatus(manager, file, 'completed', { progress: 100 }, 'file.completed'),
  );
}

/** Ends a run for good because the scan found something. @throws {AppError} wrong_state */
export async function infectFile(
  database: DataSource,
  file: FileRun,
  error: Problem,
  record: StepRecord,
): Promise<void> {
  const columns = { error, progress: 100, step: error.step, steps: { [error.step]: record } };
  await database.transaction((manager) => changeStatus(manager, file, 'infected', columns, 'file.infected'));
}

/** Ends a run because a step failed and will not be tried again. @throws {AppError} wrong_state */
export async function failFile(database: DataSource, file: FileRun, error: Problem): Promise<void> {
  await database.transaction((manager) =>
    changeStatus(manager, file, 'failed', { error, step: error.step }, 'file.failed'),
  );
}

/**
 * Gives an unfinished file a new run, because the queue holds the job of the present one as done.
 * @returns the new run; undefined if the file has moved on meanwhile
 */
export async function raiseRun(database: DataSource, file: FileRun): Promise<number | undefined> {
  const [raised] = await queryEntities(
    database.manager,
    File,
    `UPDATE files SET run = run + 1, updated_at = now()
     WHERE id = $1 AND run = $2 AND status IN ('pending', 'processing') RETURNING *`,
    [file.id, file.run],
  );
  return raised?.run;
}

/**
 * Files that are not at their end and have not moved for `idleSeconds`, in order of id.
 * @param after id to go on from
 */
export async function listUnfinished(
  database: DataSource,
  idleSeconds: number,
  after: string | undefined,
  limit: number,
): Promise<File[]> {
  return queryEntities(
    database.manager,
    File,
    `SELECT * FROM files
     WHERE status IN ('pending', 'processing') AND updated_at <= now() - $1 * interval '1 second'
       AND ($2::uuid IS NULL OR id > $2)
     ORDER BY id LIMIT $3`,
    [idleSeconds, after ?? null, limit],
  );
}

/** Where a page of a list ended. */
export interface FileCursor {
  createdAt: Date;
  id: string;
}

/** Newest first. @param after the last file of the page before */
export async function listFiles(
  database: DataSource,
  ownerId: string,
  after: FileCursor | undefined,
  limit: number,
): Promise<File[]> {
  return queryEntities(
    database.manager,
    File,
    `SELECT * FROM files
     WHERE owner_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR (created_at, id) < ($3, $2))
     ORDER BY created_at DESC, id DESC LIMIT $4`,
    [ownerId, after?.id ?? null, after?.createdAt ?? null, limit],
  );
}

/**
 * One file.
 * @param ownerId whose it must be; undefined where something else than ownership opened the door
 * @param options.trashed also look in the trash
 * @throws {AppError} not_found
 */
export async function getFile(
  database: DataSource,
  id: string,
  ownerId: string | undefined,
  options: { trashed?: boolean } = {},
): Promise<File> {
  const [file] = await queryEntities(
    database.manager,
    File,
    `SELECT * FROM files
     WHERE id = $1 AND ($2::uuid IS NULL OR owner_id = $2) AND ($3 OR deleted_at IS NULL)`,
    [id, ownerId ?? null, options.trashed ?? false],
  );
  if (!file) throw new AppError('not_found');
  return file;
}

/** The blob that holds a file's bytes. */
export async function getBlob(database: DataSource, file: File): Promise<Blob> {
  return database.getRepository(Blob).findOneByOrFail({ id: file.blobId });
}

/** Derivatives of many files at once, with the keys of their blobs. */
export async function listDerivatives(
  database: DataSource,
  fileIds: string[],
): Promise<(Derivative & { key: string; size: number })[]> {
  return database
    .getRepository(Derivative)
    .createQueryBuilder('d')
    .innerJoin(Blob, 'b', 'b.id = d.blobId')
    .select(['d.file_id AS "fileId"', 'd.name AS name', 'd.content_type AS "contentType"'])
    .addSelect(['d.width AS width', 'd.height AS height', 'b.key AS key', 'b.size::float8 AS size'])
    .where('d.file_id = ANY (:fileIds)', { fileIds })
    .getRawMany();
}

/** Puts a file into the trash, where it keeps its bytes. @throws {AppError} not_found */
export async function trashFile(database: DataSource, ownerId: string, id: string): Promise<void> {
  await database.transaction(async (manager) => {
    const changed = await countChanged(
      manager,
      `UPDATE files SET deleted_at = now(), updated_at = now()
       WHERE id = $1 AND owner_id = $2 AND deleted_at IS NULL`,
      [id, ownerId],
    );
    if (changed === 0) throw new AppError('not_found');
    await appendEvents(manager, [{ type: 'file.deleted', subjectId: id, ownerId }]);
  });
}

/**
 * Removes the row of a file and of all that was made from it, in the caller's transaction.
 * @returns ids of the blobs that lost a reference, for deleteUnreferencedBlobs after the commit
 */
export async function purgeFile(manager: EntityManager, id: string): Promise<string[]> {
  const derivatives = await queryEntities(
    manager,
    Derivative,
    'DELETE FROM derivatives WHERE file_id = $1 RETURNING *',
    [id],
  );
  const [file] = await queryEntities(manager, File, 'DELETE FROM files WHERE id = $1 RETURNING *', [id]);
  if (!file) return [];
  const blobIds = [file.blobId, ...derivatives.map((derivative) => derivative.blobId)];
  await releaseBlobs(manager, blobIds);
  await appendEvents(manager, [{ type: 'file.purged', subjectId: id, ownerId: file.ownerId }]);
  return blobIds;
}
