import { z } from 'zod';
import { listEvents } from '../../core/events/queries.js';
import { toPublicEvent } from '../../core/events/types.js';
import { trashFile } from '../../core/files/purge.js';
import { getFile } from '../../core/files/queries.js';
import type { LedgerDeps } from '../../core/uploads/commit.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { file as fileAnswer, timeline } from '../answers/files.js';
import type { Keys } from '../auth/keys.js';
import { type HookedDeps, hooked, setHookHeaders } from '../uploads/hooked.js';
import { EMPTY } from './answers.js';
import { byId } from './fields.js';
import { fileToJson } from './file-json.js';
import { type AnyRoute, route, signedInActor } from './route.js';

interface FileDeps extends LedgerDeps, HookedDeps {
  keys: Keys;
}

/** Reads and deletes one of the caller's own files. */
export function fileRoutes(deps: FileDeps): AnyRoute[] {
  const { database } = deps;

  return [
    route({
      method: 'get',
      path: '/api/files/:id',
      access: 'read',
      limit: 'status',
      summary: 'One of my files',
      params: byId,
      answers: { 200: fileAnswer },
      async handle(call) {
        return fileToJson(deps, call.own(await getFile(database, call.params.id)));
      },
    }),
    route({
      method: 'delete',
      path: '/api/files/:id',
      access: 'manage',
      limit: 'processing',
      summary: 'Put a file into the trash, or with permanent=1 delete it for good',
      params: byId,
      query: z.object({ permanent: z.enum(['0', '1'], 'must be 0 or 1').default('0') }),
      answers: { 204: EMPTY },
      problems: ['gone', 'refused'],
      async handle(call) {
        const permanent = call.query.permanent === '1';
        const { id } = call.own(await getFile(database, call.params.id, { trashed: permanent }));
        const actor = signedInActor(call);
        if (!permanent) return trashFile(database, id, actor);
        const bound = hooked(deps, call.req);
        await terminateUpload(bound.deps, id, actor);
        setHookHeaders(call.res, bound.answer());
      },
    }),
    route({
      method: 'get',
      path: '/api/files/:id/events',
      access: 'read',
      limit: 'status',
      summary: 'The events of a file, oldest first',
      params: byId,
      answers: { 200: timeline, 304: EMPTY },
      async handle(call) {
        const file = call.own(await getFile(database, call.params.id));
        const events = await listEvents(database, file.id);
        return {
          items: events.map(toPublicEvent),
          nextCursor: null,
        };
      },
    }),
  ];
}
