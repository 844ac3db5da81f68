import { pipeline } from 'node:stream/promises';
import type { Response } from 'express';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Event } from '../../core/database/entities/event.js';
import { appendEvents } from '../../core/events/append.js';
import { type AuditFilter, listAudit, readAudit } from '../../core/events/queries.js';
import { readHead, sequenceEvents } from '../../core/events/sequence.js';
import type { Logger } from '../../core/log.js';
import { auditPage } from '../answers/admin.js';
import { pageLimit, time } from './fields.js';
import { type AnyRoute, pageOf, route, signedInActor } from './route.js';

interface AuditDeps {
  database: DataSource;
  log: Logger;
}

const filters = {
  type: z
    .string()
    .regex(/^[a-z_]+(\.[a-z_]+|\.\*)?$/, 'must be a type such as auth.login, or auth.* for all that begin so')
    .optional(),
  userId: z.uuid('must be the id of a user').optional(),
  subjectId: z.uuid('must be an id').optional(),
  result: z.enum(['ok', 'refused'], 'must be ok or refused').optional(),
  from: time.optional(),
  to: time.optional(),
  system: z.enum(['0', '1'], 'must be 0 or 1').default('0'),
};

type Filters = z.infer<z.ZodObject<typeof filters>>;

/** The event log, for admins: actions and refusals with their actors. */
export function auditRoutes({ database, log }: AuditDeps): AnyRoute[] {
  /** Numbers the newest events, so that the answer includes them. */
  async function numberEvents(): Promise<void> {
    // This fails if the log was tampered with. Then admins need to see the log all the more.
    await sequenceEvents(database).catch((error: unknown) =>
      log.error({ err: error }, 'events not numbered'),
    );
  }

  return [
    route({
      method: 'get',
      path: '/api/admin/audit',
      access: 'admin',
      limit: 'status',
      summary: 'The event log: actions and refusals, newest first',
      query: z.strictObject({
        ...filters,
        cursor: z
          .string()
          .regex(/^\d{1,15}$/, 'must be the nextCursor of a page before')
          .transform(Number)
          .optional(),
        limit: pageLimit,
      }),
      answers: { 200: auditPage },
      async handle({ query, res }) {
        const { cursor, limit } = query;
        if (cursor === undefined) await numberEvents();
        const found = await listAudit(database, toFilter(query), cursor, limit + 1);
        const { items, nextCursor } = pageOf(found, limit, ({ seq }) => String(seq));
        res.setHeader('Cache-Control', 'no-store');
        return { items: items.map(toJson), nextCursor };
      },
    }),
    route({
      method: 'get',
      path: '/api/admin/audit/export',
      access: 'admin',
      limit: 'downloads',
      summary: 'Export the event log as NDJSON, oldest first, up to the export itself',
      query: z.strictObject(filters),
      answers: { 200: { mediaType: 'application/x-ndjson' } },
      async handle(call) {
        const { query, req, res } = call;
        res.setHeader('Content-Type', 'application/x-ndjson');
        res.setHeader('Content-Disposition', `attachment; filename="audit-${stamp()}.ndjson"`);
        res.setHeader('Cache-Control', 'no-store');
        if (req.method === 'HEAD') {
          res.end();
          return;
        }
        const { system, ...chosen } = query;
        const data = { ...chosen, ...(system === '1' ? { system: true } : {}) };
        const actor = signedInActor(call);
        await appendEvents(database.manager, [
          { type: 'audit.exported', subjectId: null, ownerId: null, data, actor },
        ]);
        await numberEvents();
        const { seq } = await readHead(database);
        await send(res, readAudit(database, toFilter(query), seq));
      },
    }),
  ];
}

function toFilter({ system, ...rest }: Filters): AuditFilter {
  return { ...rest, system: system === '1' };
}

function toJson(event: Event): z.output<typeof auditPage>['items'][number] {
  const { seq, type, result, subjectId, ownerId, actor, data, createdAt, hash } = event;
  return {
    seq,
    type,
    result,
    subjectId,
    ownerId,
    actor,
    data,
    createdAt,
    hash: hash?.toString('hex') ?? null,
  };
}

/** Sends one event per line. It reads the next batch after the client has taken the last one. */
async function send(res: Response, batches: AsyncIterable<Event[]>): Promise<void> {
  async function* lines() {
    for await (const events of batches) {
      yield events.map((event) => `${JSON.stringify(toJson(event))}\n`).join('');
    }
  }
  try {
    await pipeline(lines(), res);
  } catch (error) {
    // The client is gone, and the pipeline has stopped reading.
    if (!res.destroyed || res.errored) throw error;
  }
}

/** The current time, for the name of a file. */
function stamp(): string {
  return new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '');
}
