import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { type FileList, type FileOrderKey, listFiles } from '../../core/files/list.js';
import { filePage, fileStatus } from '../answers/files.js';
import type { Keys } from '../auth/keys.js';
import { EMPTY } from './answers.js';
import { pageLimit, time, wholeNumber } from './fields.js';
import { MAX_CURSOR, readCursor, writeCursor } from './file-cursor.js';
import { filesToJson } from './file-json.js';
import { type AnyRoute, pageOf, route, userOf } from './route.js';

const SORTS = ['createdAt', '-createdAt', 'size', '-size', 'filename', '-filename'] as const;

/** More words would only make the search slower. */
const MAX_WORDS = 10;

const filters = {
  status: fileStatus.optional().describe('Files in this state'),
  type: z
    .string()
    .max(255)
    .regex(/^[\w!#$&^.+-]+\/([\w!#$&^.+-]+|\*)$/, 'must be a media type such as image/png, or image/*')
    .toLowerCase()
    .optional()
    .describe('Files with this detected media type; the declared type counts until the type is detected'),
  q: z
    .string()
    .max(200, 'must have at most 200 characters')
    .regex(/^\P{Cc}*$/u, 'must not hold control characters')
    .transform((text) => text.split(/\s+/u).filter((word) => word !== ''))
    .refine((words) => words.length > 0, 'must not be empty')
    .refine((words) => words.length <= MAX_WORDS, `must have at most ${MAX_WORDS} words`)
    .optional()
    .describe('Words that all occur in the name, in any case, also within other words'),
  from: time.optional().describe('Files that were created at this time or later'),
  to: time.optional().describe('Files that were created before this time'),
  minSize: wholeNumber.optional().describe('Files of at least as many bytes'),
  maxSize: wholeNumber.optional().describe('Files of at most as many bytes'),
};

const page = z
  .strictObject({
    ...filters,
    deleted: z
      .enum(['0', '1'], 'must be 0 or 1')
      .default('0')
      .describe('1: the files in the trash, the last deleted one first; of the filters, only q goes with it'),
    sort: z
      .enum(SORTS, `must be one of ${SORTS.join(', ')}`)
      .optional()
      .describe('A minus: descending. Names are sorted regardless of case. Default: -createdAt'),
    cursor: z
      .string()
      .max(MAX_CURSOR)
      .regex(/^[\w-]+$/, 'must be the nextCursor of a page before')
      .optional(),
    limit: pageLimit,
  })
  .superRefine(({ deleted, ...query }, context) => {
    if (deleted === '0') return;
    for (const name of ['status', 'type', 'from', 'to', 'minSize', 'maxSize', 'sort'] as const) {
      if (query[name] === undefined) continue;
      context.addIssue({ code: 'custom', path: [name], message: 'does not go with deleted=1' });
    }
  });

/** Lists the caller's own files. */
export function fileListRoute(deps: { database: DataSource; keys: Keys }): AnyRoute {
  return route({
    method: 'get',
    path: '/api/files',
    access: 'read',
    limit: 'status',
    summary: 'My files, newest first, or as sort says',
    query: page,
    answers: { 200: filePage, 304: EMPTY },
    async handle(call) {
      const list = listOf(userOf(call).userId, call.query);
      const { cursor, limit } = call.query;
      const after = cursor === undefined ? undefined : readCursor(list, cursor);
      const found = await listFiles(deps.database, list, after, limit + 1);
      const { items, nextCursor } = pageOf(found, limit, ({ position }) => writeCursor(list, position));
      return {
        items: await filesToJson(
          deps,
          items.map(({ file }) => file),
        ),
        nextCursor,
      };
    },
  });
}

function listOf(ownerId: string, query: z.output<typeof page>): FileList {
  const { status, type, q, from, to, minSize, maxSize, sort = '-createdAt' } = query;
  const deleted = query.deleted === '1';
  const order = deleted
    ? ({ by: 'deletedAt', descending: true } as const)
    : { by: sort.replace('-', '') as FileOrderKey, descending: sort.startsWith('-') };
  return { ownerId, filter: { deleted, status, type, words: q, from, to, minSize, maxSize }, order };
}
