import { validate as isUuid } from 'uuid';
import { z } from 'zod';
import type { File } from '../../core/database/entities/file.js';
import { isDatabaseAway } from '../../core/database/outage.js';
import { AppError } from '../../core/errors.js';
import { restoreFile } from '../../core/files/control.js';
import { trashFile } from '../../core/files/purge.js';
import { getFile } from '../../core/files/queries.js';
import { changeByUser } from '../../core/files/status.js';
import { addJobs, type SettleDeps } from '../../core/uploads/settle.js';
import { batchAnswers } from '../answers/files.js';
import type { Keys } from '../auth/keys.js';
import { noteIfRefused, type Refusals } from '../auth/refusals.js';
import { toAppError, toProblem } from '../http/problem.js';
import { countIn, type Limits } from '../limits/limits.js';
import { PRIORITIES, priority, processing } from './fields.js';
import { filesToJson } from './file-json.js';
import { type AnyRoute, type Call, route, signedInActor } from './route.js';

interface BatchDeps extends SettleDeps {
  keys: Keys;
  limits: Limits;
  refusals: Refusals;
}

const MAX_IDS = 100;

const batch = z
  .strictObject({
    ids: z
      .array(z.string())
      .min(1, 'must name at least one file')
      .max(MAX_IDS, `must name at most ${MAX_IDS} files`),
    action: z.enum(['delete', 'restore', 'retry', 'cancel', 'pause', 'resume', 'process']),
    priority: priority.optional(),
    settings: processing.settings,
  })
  .superRefine(({ action, ...more }, context) => {
    if (action === 'process') return;
    const alone = (['priority', 'settings'] as const).find((name) => more[name] !== undefined);
    const message = 'belongs to the action process: leave it out';
    if (alone) context.addIssue({ code: 'custom', path: [alone], message });
  });

/** What became of one file: the file as it is now (undefined: it is in the trash), or why it was refused. */
interface Outcome {
  file?: File | undefined;
  refusal?: AppError;
}

type BatchCall = Call<unknown, unknown, z.output<typeof batch>>;

/** One request for many files of the caller. */
export function fileBatchRoutes(deps: BatchDeps): AnyRoute[] {
  return [
    route({
      method: 'post',
      path: '/api/files/batch',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Delete, restore or control many files; each is answered, and counts as a change, by itself',
      body: batch,
      answers: { 200: batchAnswers },
      async handle(call) {
        const outcomes = await actOnAll(deps, call);
        const files = [...outcomes.values()].flatMap(({ file }) => file ?? []);
        await addJobs(deps, files, signedInActor(call));
        const shown = await filesToJson(deps, files);
        return {
          items: call.body.ids.map((id) => {
            const { file, refusal } = outcomes.get(keyOf(id)) ?? {};
            if (refusal) return { id, status: refusal.status, problem: toProblem(refusal) };
            const now = shown.find((one) => one.id === file?.id);
            return now ? { id, status: 200, file: now } : { id, status: 204 };
          }),
        };
      },
    }),
  ];
}

/** The same for the two ways in which an id can be written. */
function keyOf(id: string): string {
  return id.toLowerCase();
}

/**
 * Acts on one file after the other, so that the first ones get the room that is left. An id that is named twice is handled
 * once.
 * @returns the outcomes, by keyOf() the ids
 * @throws {DatabaseAway} that is no outcome of one file; what was done before stays done
 */
async function actOnAll(deps: BatchDeps, call: BatchCall): Promise<Map<string, Outcome>> {
  const outcomes = new Map<string, Outcome>();
  for (const id of new Set(call.body.ids.map(keyOf))) {
    try {
      // The route has counted the first one.
      if (outcomes.size > 0) await countIn(deps.limits.bucket('processing'), call.req, call.res);
      outcomes.set(id, { file: await actOn(deps, call, id) });
    } catch (error) {
      if (isDatabaseAway(error)) throw error;
      outcomes.set(id, { refusal: noteRefusal(deps, call, error) });
    }
  }
  return outcomes;
}

/** Does to one file what its own route does. The caller adds the job of a new run. @throws what that route throws */
async function actOn(deps: BatchDeps, call: BatchCall, id: string): Promise<File | undefined> {
  const { action, priority = 'normal', settings } = call.body;
  if (!isUuid(id)) throw new AppError('not_found');
  call.own(await getFile(deps.database, id, { trashed: action === 'restore' }));
  const actor = signedInActor(call);
  switch (action) {
    case 'delete':
      await trashFile(deps.database, id, actor);
      return undefined;
    case 'restore':
      return restoreFile(deps, id, actor);
    case 'process':
      return changeByUser(deps.database, id, action, actor, { priority: PRIORITIES[priority], settings });
    default:
      return changeByUser(deps.database, id, action, actor);
  }
}

/** Treats the error of one file as the error of a request is treated. @returns the error that the client sees */
function noteRefusal({ refusals, log }: BatchDeps, { req }: BatchCall, thrown: unknown): AppError {
  const error = toAppError(thrown);
  noteIfRefused(refusals, req, error);
  if (error.status >= 500) log.error({ err: thrown, requestId: req.id }, 'request failed for one file');
  return error;
}
