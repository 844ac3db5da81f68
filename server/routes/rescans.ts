import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { getFile } from '../../core/files/queries.js';
import {
  cancelRescan,
  getRescan,
  listRescans,
  type Rescan,
  rescanFile,
  rescanFiles,
} from '../../core/files/rescans.js';
import { rescan, rescanPage } from '../answers/rescans.js';
import { EMPTY } from './answers.js';
import { byId, idCursor, pageLimit, time } from './fields.js';
import { type AnyRoute, pageOf, route, signedInActor } from './route.js';

/** Scans of stored files, for admins. */
export function rescanRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'post',
      path: '/api/admin/files/:id/rescan',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary: 'Scan a stored file of any user with the signatures of today, and do nothing else with it',
      params: byId,
      answers: { 202: rescan },
      problems: ['wrong_state'],
      async handle(call) {
        const file = await getFile(database, call.params.id, { trashed: true });
        return toJson(await rescanFile(database, file, signedInActor(call)));
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/rescan',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary: 'Scan all stored files with the signatures of today, or those that a filter lets pass',
      body: z.strictObject({
        outdated: z.boolean().optional(),
        version: z.string().min(1).max(200).optional(),
        scannedBefore: time.optional(),
      }),
      answers: { 202: rescan },
      problems: ['wrong_state'],
      async handle(call) {
        const { scannedBefore, ...filter } = call.body;
        const all = { ...filter, scannedBefore: scannedBefore?.toISOString() };
        return toJson(await rescanFiles(database, all, signedInActor(call)));
      },
    }),
    route({
      method: 'get',
      path: '/api/admin/rescans',
      access: 'admin',
      limit: 'status',
      summary: 'Scans of stored files and how far they have come, newest first',
      query: z.strictObject({ cursor: idCursor, limit: pageLimit }),
      answers: { 200: rescanPage, 304: EMPTY },
      async handle({ query: { cursor, limit } }) {
        const found = await listRescans(database, cursor, limit + 1);
        const { items, nextCursor } = pageOf(found, limit, ({ id }) => id);
        return { items: items.map(toJson), nextCursor };
      },
    }),
    route({
      method: 'get',
      path: '/api/admin/rescans/:id',
      access: 'admin',
      limit: 'status',
      summary: 'One scan of stored files and how far it has come',
      params: byId,
      answers: { 200: rescan },
      handle: async ({ params }) => toJson(await getRescan(database, params.id)),
    }),
    route({
      method: 'delete',
      path: '/api/admin/rescans/:id',
      access: 'admin',
      limit: 'processing',
      summary: 'Stop a scan of stored files after the present file',
      params: byId,
      answers: { 204: EMPTY },
      problems: ['wrong_state'],
      handle: (call) => cancelRescan(database, call.params.id, signedInActor(call)),
    }),
  ];
}

function toJson({ filter, position: _, bySystem: __, ...rest }: Rescan): z.output<typeof rescan> {
  return {
    ...rest,
    outdated: filter.outdated ?? false,
    version: filter.version ?? null,
    scannedBefore: filter.scannedBefore ?? null,
  };
}
