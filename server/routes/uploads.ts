import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Upload } from '../../core/database/entities/upload.js';
import { getUpload, listUnfinishedUploads } from '../../core/uploads/queries.js';
import { type AnyRoute, pageLimit, route, userOf } from './route.js';

const page = z.object({
  cursor: z.uuid('must be the nextCursor of a page before').optional(),
  limit: pageLimit,
});

/** One's own unfinished uploads. */
export function uploadRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/uploads',
      access: 'user',
      summary: 'My unfinished uploads, newest first',
      query: page,
      async handle(call) {
        const { cursor, limit } = call.query;
        const found = await listUnfinishedUploads(database, userOf(call).userId, cursor, limit + 1);
        const items = found.slice(0, limit);
        return { items: items.map(toJson), nextCursor: found.length > limit ? items.at(-1)?.id : null };
      },
    }),
    route({
      method: 'get',
      path: '/api/uploads/:id',
      access: 'user',
      summary: 'One of my uploads',
      params: z.object({ id: z.uuid() }),
      async handle(call) {
        return toJson(await getUpload(database, userOf(call).userId, call.params.id));
      },
    }),
  ];
}

function toJson(upload: Upload) {
  return {
    id: upload.id,
    status: upload.status,
    offset: upload.offset,
    length: upload.length,
    metadata: upload.metadata,
    createdAt: upload.createdAt,
    expiresAt: upload.status === 'uploading' ? upload.expiresAt : null,
  };
}
