import type { DataSource, EntityManager } from 'typeorm';
import { Blob } from '../database/entities/blob.js';
import type { Actor } from '../database/entities/event.js';
import { File, type FileStatus, type Problem, type StepRecord } from '../database/entities/file.js';
import { countChanged, execute, queryEntities } from '../database/rows.js';
import { AppError } from '../errors.js';
import { appendEvents } from '../events/append.js';
import type { StatusEventType } from '../events/types.js';
import type { ImageSettings } from '../media/image-settings.js';
import { AttemptOver, type FileRun, stopAttempt } from './attempt.js';
import { recordDuration } from './durations.js';

/*
 * The state machine of files: the only place that changes a status; insert.ts makes the rows. Each change is guarded by
 * the states that it may come from, and it appends an event in the same transaction. A worker's change also names the run
 * and the attempt: a worker that has lost its job changes nothing, and each file is completed exactly once. A user's
 * change does not name them: the user means the file, whichever attempt is running.
 */

const TRANSITIONS: Record<FileStatus, readonly FileStatus[]> = {
  pending: ['processing', 'failed', 'infected', 'paused', 'canceled'],
  processing: ['completed', 'failed', 'infected', 'pending', 'paused', 'canceled'],
  completed: ['pending', 'infected'],
  failed: ['pending', 'infected'],
  infected: ['pending'],
  paused: ['pending', 'infected', 'canceled'],
  canceled: ['pending', 'infected'],
};

/** The states that an attempt gives a file, and those in which it may find the file. */
const CHANGED_BY_ATTEMPT: Partial<Record<FileStatus, readonly FileStatus[]>> = {
  processing: ['pending'],
  completed: ['processing'],
  failed: ['pending', 'processing'],
  infected: ['processing'],
};

/** Whether a file may go from one status to another. */
export function canChange(from: FileStatus, to: FileStatus): boolean {
  return TRANSITIONS[from].includes(to);
}

/** Columns that a change of status sets too. */
interface StatusColumns {
  error?: Problem | null;
  progress?: number;
  step?: string | null;
  steps?: Record<string, StepRecord>;
}

/** Moves a file to another status, for the attempt that processes it. @throws {AttemptOver} */
async function changeByAttempt(
  manager: EntityManager,
  file: FileRun,
  to: FileStatus,
  columns: StatusColumns,
  event: StatusEventType,
): Promise<void> {
  const from = CHANGED_BY_ATTEMPT[to] ?? [];
  const changed = await countChanged(
    manager,
    `UPDATE files
     SET status = $3, error = $5, progress = coalesce($6, progress), step = coalesce($7, step),
         steps = CASE WHEN steps -> $7::text ->> 'state' = 'waiting' THEN steps - $7::text ELSE steps END || $8::jsonb,
         completed_at = CASE WHEN $3 = 'completed' THEN now() END,
         processing_since = CASE WHEN $3 = 'processing' THEN now() ELSE processing_since END,
         clean = clean AND $3 <> 'infected', updated_at = now()
     WHERE id = $1 AND run = $2 AND attempts = $9 AND status = ANY ($4)`,
    [
      file.id,
      file.run,
      to,
      from,
      columns.error ? JSON.stringify(columns.error) : null,
      columns.progress ?? null,
      columns.step ?? null,
      JSON.stringify(columns.steps ?? {}),
      file.attempts,
    ],
  );
  if (changed === 0) {
    throw new AttemptOver(
      `File ${file.id} cannot become ${to} by attempt ${file.attempts} of run ${file.run}`,
    );
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

/**
 * Begins an attempt of a run, or takes it over from a worker that died.
 * @param job `attempt`: 1 for the first; an attempt that replaces a crashed or interrupted one keeps its number
 * @param step the first step of a run
 * @returns undefined if there is nothing to do: the file is done, deleted, or has a newer run
 */
export async function startAttempt(
  database: DataSource,
  job: { fileId: string; run: number; attempt: number },
  step: string,
): Promise<{ file: File; blob: Blob } | undefined> {
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      `UPDATE files SET attempts = attempts + 1, counted_attempts = $4, step = coalesce(step, $3), eta_seconds = NULL,
         updated_at = now()
       WHERE id = $1 AND run = $2 AND status IN ('pending', 'processing') RETURNING *`,
      [job.fileId, job.run, step, job.attempt],
    );
    if (!file) return undefined;
    if (file.status === 'pending') {
      await changeByAttempt(manager, file, 'processing', {}, 'file.processing');
      file.status = 'processing';
    }
    const blob = await manager.getRepository(Blob).findOneByOrFail({ id: file.blobId });
    return { file, blob };
  });
}

/**
 * Ends a run successfully.
 * @param readingSteps names of the steps that read the file; see durations.ts
 * @throws {AttemptOver}
 */
export async function completeFile(
  database: DataSource,
  file: FileRun,
  readingSteps: readonly string[] = [],
): Promise<void> {
  await database.transaction(async (manager) => {
    await changeByAttempt(manager, file, 'completed', { progress: 100 }, 'file.completed');
    await recordDuration(manager, file.id, readingSteps);
  });
}

/** What a scan has found. */
export interface Infection {
  error: Problem;
  /** See Facts. */
  metadata?: Record<string, unknown> | undefined;
}

/**
 * Ends a run because the scan found a threat. Files of the same owner that have the same bytes are infected too.
 * @throws {AttemptOver}
 */
export async function infectFile(
  database: DataSource,
  file: FileRun,
  infection: Infection,
  record: StepRecord,
): Promise<void> {
  const { error } = infection;
  const columns = { error, progress: 100, step: error.step, steps: { [error.step]: record } };
  await database.transaction(async (manager) => {
    await changeByAttempt(manager, file, 'infected', columns, 'file.infected');
    await execute(manager, 'UPDATE files SET metadata = metadata || $2::jsonb WHERE id = $1', [
      file.id,
      JSON.stringify(infection.metadata ?? {}),
    ]);
    await infectReadable(manager, file, infection);
  });
}

/**
 * Makes files infected that could be read, because a scan has found a threat in the bytes of `file`: the file itself, and
 * those of its owner with the same bytes. Attempts that process them are told to stop. Part of the caller's transaction.
 * @returns the files that were infected by this
 */
export async function infectReadable(
  manager: EntityManager,
  file: Pick<File, 'id'>,
  { error, metadata }: Infection,
): Promise<File[]> {
  const files = await queryEntities(
    manager,
    File,
    `SELECT files.* FROM files
     WHERE clean AND id IN (
       SELECT twin.id FROM files AS found JOIN files AS twin
         ON twin.id = found.id
         OR (twin.owner_id = found.owner_id AND twin.sha256 = found.sha256 AND twin.size = found.size)
       WHERE found.id = $1)
     ORDER BY id FOR UPDATE`,
    [file.id],
  );
  const infected = files.filter(({ status }) => canChange(status, 'infected'));
  await execute(
    manager,
    `UPDATE files
     SET status = 'infected', clean = false, error = $2, step = $3, progress = 100, eta_seconds = NULL,
         metadata = metadata || $4::jsonb, completed_at = NULL, updated_at = now()
     WHERE id = ANY ($1)`,
    [infected.map(({ id }) => id), JSON.stringify(error), error.step, JSON.stringify(metadata ?? {})],
  );
  for (const one of infected) if (one.status === 'processing') await stopAttempt(manager, one);
  await appendEvents(
    manager,
    infected.map(({ id, ownerId, run }) => ({
      type: 'file.infected' as const,
      subjectId: id,
      ownerId,
      data: { run, error },
    })),
  );
  return infected;
}

/** Failures that say that the content is not of an allowed type or size. */
const REFUSED_CONTENT = ['type_not_allowed', 'too_large'];

/** Ends a run because a step failed and will not be tried again. @throws {AttemptOver} */
export async function failFile(database: DataSource, file: FileRun, error: Problem): Promise<void> {
  await database.transaction(async (manager) => {
    if (REFUSED_CONTENT.includes(error.code)) await returnUploadToken(manager, file.id);
    await changeByAttempt(manager, file, 'failed', { error, step: error.step }, 'file.failed');
  });
}

/** Makes the upload token usable again, so that an honest guest can send an allowed file. See endRefusedUploadOf(). */
async function returnUploadToken(manager: EntityManager, fileId: string): Promise<void> {
  await execute(
    manager,
    `UPDATE upload_tokens SET used_at = NULL FROM uploads
     WHERE uploads.id = $1 AND upload_tokens.id = uploads.upload_token_id`,
    [fileId],
  );
}

/** Assignments of an UPDATE that begin a new run. */
const NEW_RUN = 'run = run + 1, attempts = 0, counted_attempts = 0';

/**
 * Gives an unfinished file a new run, because the queue has the job of the present run as ended.
 * @returns the new run; undefined if the file has changed meanwhile
 */
export async function raiseRun(
  database: DataSource,
  file: Pick<File, 'id' | 'run'>,
): Promise<number | undefined> {
  const [raised] = await queryEntities(
    database.manager,
    File,
    `UPDATE files SET ${NEW_RUN}, updated_at = now()
     WHERE id = $1 AND run = $2 AND status IN ('pending', 'processing') RETURNING *`,
    [file.id, file.run],
  );
  return raised?.run;
}

/* What an UPDATE assigns besides the status, when a user changes it. */

/** No run goes on, so nothing is left to wait for. */
const ENDED = 'eta_seconds = NULL';

/** A new run that repeats no step that is done. A step that waits is asked again. */
const CONTINUED = `
  ${NEW_RUN}, error = NULL, eta_seconds = NULL,
  steps = (SELECT coalesce(jsonb_object_agg(name, record), '{}') FROM jsonb_each(steps) AS step (name, record)
           WHERE record ->> 'state' <> 'waiting')`;

/**
 * A new run with all steps. Facts stay until the steps replace them, so a clean file can be read meanwhile. Warnings of
 * the steps go, because the steps would add them a second time.
 */
const REPEATED = `
  ${NEW_RUN}, error = NULL, eta_seconds = NULL, steps = '{}', step = NULL, progress = 0, completed_at = NULL,
  metadata = '{}', warnings = (SELECT coalesce(jsonb_agg(warning), '[]')
                               FROM jsonb_array_elements(warnings) AS one (warning)
                               WHERE warning ->> 'step' = 'upload')`;

/** A new run of the optimisation alone: the facts of the other steps do not depend on the settings. */
const OPTIMIZED_AGAIN = `
  ${NEW_RUN}, error = NULL, eta_seconds = NULL, steps = steps - 'optimize', step = 'optimize', progress = 0,
  completed_at = NULL, metadata = metadata - 'optimized',
  warnings = (SELECT coalesce(jsonb_agg(warning), '[]') FROM jsonb_array_elements(warnings) AS one (warning)
              WHERE warning ->> 'step' <> 'optimize')`;

interface UserAction {
  from: readonly FileStatus[];
  to: FileStatus;
  event: StatusEventType;
  assign: string;
}

/** What a user may have done to the processing of a file: the states from which it is possible, and what follows. */
const USER_ACTIONS = {
  pause: { from: ['pending', 'processing'], to: 'paused', event: 'file.paused', assign: ENDED },
  resume: { from: ['paused'], to: 'pending', event: 'file.pending', assign: CONTINUED },
  cancel: {
    from: ['pending', 'processing', 'paused'],
    to: 'canceled',
    event: 'file.canceled',
    assign: ENDED,
  },
  retry: { from: ['failed', 'canceled'], to: 'pending', event: 'file.pending', assign: CONTINUED },
  process: {
    from: ['completed', 'failed', 'infected', 'canceled'],
    to: 'pending',
    event: 'file.pending',
    assign: REPEATED,
  },
} satisfies Record<string, UserAction>;

export type FileAction = keyof typeof USER_ACTIONS;

/** What a user may say about a new run. */
export interface RunOptions {
  /** In the queue, see ProcessingJob; undefined: as before. */
  priority?: number | undefined;
  /** Null: none of its own; undefined: as before. */
  settings?: ImageSettings | null | undefined;
}

/**
 * Changes the status of a file for its user, whichever attempt processes it. An attempt that is running is told to stop.
 * A change to `pending` begins a new run; the caller adds its job. If a completed file gets settings, the new run has only the
 * step that they concern.
 * @returns the file as it is now
 * @throws {AppError} not_found; wrong_state, saying which actions are possible
 */
export async function changeByUser(
  database: DataSource,
  id: string,
  action: FileAction,
  actor: Actor,
  { priority, settings }: RunOptions = {},
): Promise<File> {
  const { to, event, assign }: UserAction = USER_ACTIONS[action];
  return database.transaction(async (manager) => {
    const [file] = await queryEntities(
      manager,
      File,
      'SELECT * FROM files WHERE id = $1 AND deleted_at IS NULL FOR UPDATE',
      [id],
    );
    if (!file) throw new AppError('not_found');
    requirePossible(file.status, action);
    const isOnlyOptimized = settings !== undefined && file.status === 'completed';
    const [changed] = await queryEntities(
      manager,
      File,
      `UPDATE files SET status = $2, priority = coalesce($3, priority),
         settings = CASE WHEN $4 THEN $5::jsonb ELSE settings END,
         ${isOnlyOptimized ? OPTIMIZED_AGAIN : assign}, updated_at = now()
       WHERE id = $1 RETURNING *`,
      [id, to, priority ?? null, settings !== undefined, settings ? JSON.stringify(settings) : null],
    );
    if (!changed) throw new AppError('not_found');
    if (file.status === 'processing') await stopAttempt(manager, file);
    await appendEvents(manager, [
      { type: event, subjectId: id, ownerId: file.ownerId, actor, data: { run: changed.run } },
    ]);
    return changed;
  });
}

/** @throws {AppError} wrong_state, naming the actions that are possible for a file of this status */
function requirePossible(status: FileStatus, action: FileAction): void {
  const actions: Record<string, UserAction> = USER_ACTIONS;
  const possible = Object.keys(actions).filter((one) => actions[one]?.from.includes(status));
  if (possible.includes(action)) return;
  throw new AppError('wrong_state', {
    detail: `A file that is ${status} does not allow ${action}; possible now: ${possible.join(', ')}`,
  });
}
