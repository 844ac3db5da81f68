import { z } from 'zod';
import type { File } from '../../core/database/entities/file.js';
import { renameFile, restoreFile } from '../../core/files/control.js';
import { getFile } from '../../core/files/queries.js';
import { changeByUser, type FileAction, type RunOptions } from '../../core/files/status.js';
import { addJobs, type SettleDeps } from '../../core/uploads/settle.js';
import { file as fileAnswer } from '../answers/files.js';
import type { Keys } from '../auth/keys.js';
import type { SignedInActor } from '../auth/principal.js';
import { byId, PRIORITIES, processing } from './fields.js';
import { fileToJson } from './file-json.js';
import { type AnyRoute, route, signedInActor } from './route.js';

interface ControlDeps extends SettleDeps {
  keys: Keys;
}

/** The actions that need no body, and what they do. */
const PLAIN_ACTIONS = {
  retry: 'Process a failed or canceled file further; steps that are done are not repeated',
  cancel: 'End the processing of a file; retry continues it',
  pause: 'Interrupt the processing of a file',
  resume: 'Continue the processing of a paused file',
} as const satisfies Partial<Record<FileAction, string>>;

/** Changes a file of the caller, and controls its processing. */
export function fileControlRoutes(deps: ControlDeps): AnyRoute[] {
  const { database } = deps;

  return [
    route({
      method: 'patch',
      path: '/api/files/:id',
      access: 'manage',
      limit: 'processing',
      summary: 'Rename a file',
      params: byId,
      body: z.strictObject({ filename: z.string() }),
      answers: { 200: fileAnswer },
      async handle(call) {
        const { id } = call.own(await getFile(database, call.params.id));
        return fileToJson(deps, await renameFile(database, id, call.body.filename, signedInActor(call)));
      },
    }),
    route({
      method: 'post',
      path: '/api/files/:id/restore',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Take a file out of the trash; it counts against the quota again',
      params: byId,
      answers: { 200: fileAnswer },
      problems: ['wrong_state', 'quota_exceeded'],
      async handle(call) {
        const { id } = call.own(await getFile(database, call.params.id, { trashed: true }));
        return fileToJson(deps, await restoreFile(deps, id, signedInActor(call)));
      },
    }),
    ...Object.entries(PLAIN_ACTIONS).map(([action, summary]) =>
      route({
        method: 'post',
        path: `/api/files/:id/${action}`,
        access: 'manage',
        keyed: true,
        limit: 'processing',
        summary,
        params: byId,
        answers: { 200: fileAnswer },
        problems: ['wrong_state'],
        async handle(call) {
          const { id } = call.own(await getFile(database, call.params.id));
          return fileToJson(deps, await controlFile(deps, id, action as FileAction, signedInActor(call)));
        },
      }),
    ),
    route({
      method: 'post',
      path: '/api/files/:id/process',
      access: 'manage',
      keyed: true,
      limit: 'processing',
      summary: 'Process a file again: with all steps, or with settings only the step that they concern',
      params: byId,
      body: z.strictObject(processing),
      answers: { 200: fileAnswer },
      problems: ['wrong_state'],
      async handle(call) {
        const { id } = call.own(await getFile(database, call.params.id));
        const { settings } = call.body;
        const options = { priority: PRIORITIES[call.body.priority], settings };
        return fileToJson(deps, await controlFile(deps, id, 'process', signedInActor(call), options));
      },
    }),
  ];
}

/**
 * Controls the processing of a file. The job of a new run is added after the commit; the relay adds it if that fails.
 * @throws {AppError} not_found; wrong_state
 */
async function controlFile(
  deps: Pick<SettleDeps, 'database' | 'queue' | 'log'>,
  id: string,
  action: FileAction,
  actor: SignedInActor,
  options?: RunOptions,
): Promise<File> {
  const file = await changeByUser(deps.database, id, action, actor, options);
  await addJobs(deps, [file], actor);
  return file;
}
