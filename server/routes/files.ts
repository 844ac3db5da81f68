import { validate as isUuid } from 'uuid';
import { z } from 'zod';
import { listEvents } from '../../core/events/queries.js';
import { toPublicEvent } from '../../core/events/types.js';
import { trashFile } from '../../core/files/purge.js';
import { type FileCursor, getFile, listFiles } from '../../core/files/queries.js';
import type { LedgerDeps } from '../../core/uploads/commit.js';
import { terminateUpload } from '../../core/uploads/end.js';
import { file as fileAnswer, filePage, timeline } from '../answers/files.js';
import type { Keys } from '../auth/keys.js';
import { EMPTY } from './answers.js';
import { byId, pageLimit } from './fields.js';
import { filesToJson, fileToJson } from './file-json.js';
import { type AnyRoute, pageOf, route, signedInActor, userOf } from './route.js';

interface FileDeps extends LedgerDeps {
  keys: Keys;
}

const CURSOR = /^(\d{1,17})\.(.{36})$/;

/**
 * `<µs>.<id>` of the last file of a page. Files are listed by their time of creation, which ids do not
 * reflect exactly.
 */
const cursor = z
  .string()
  .refine((text) => isUuid(CURSOR.exec(text)?.[2]), 'must be the nextCursor of a page before')
  .transform((text): FileCursor => {
    const [, micros, id = ''] = CURSOR.exec(text) ?? [];
    return { createdAtMicros: Number(micros), id };
  });

const page = z.object({
  cursor: cursor.optional(),
  limit: pageLimit,
});

/** Lists, reads and deletes the caller's own files. */
export function fileRoutes(deps: FileDeps): AnyRoute[] {
  const { database } = deps;

  return [
    route({
      method: 'get',
      path: '/api/files',
      access: 'read',
      limit: 'status',
      summary: 'My files, newest first',
      query: page,
      answers: { 200: filePage },
      async handle(call) {
        const { cursor, limit } = call.query;
        const found = await listFiles(database, userOf(call).userId, cursor, limit + 1);
        const { items, nextCursor } = pageOf(
          found,
          limit,
          ({ cursor: { createdAtMicros, id } }) => `${createdAtMicros}.${id}`,
        );
        const files = items.map(({ file }) => file);
        return { items: await filesToJson(deps, files), nextCursor };
      },
    }),
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
        if (permanent) await terminateUpload(deps, id, actor);
        else await trashFile(database, id, actor);
      },
    }),
    route({
      method: 'get',
      path: '/api/files/:id/events',
      access: 'read',
      limit: 'status',
      summary: 'The events of a file, oldest first',
      params: byId,
      answers: { 200: timeline },
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
