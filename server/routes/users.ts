import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { type Quota, UNLIMITED } from '../../core/config.js';
import type { User } from '../../core/database/entities/user.js';
import { changeUser, listUsers } from '../accounts/users.js';
import { account, accountPage } from '../answers/admin.js';
import { EMPTY } from './answers.js';
import { byId, idCursor, pageLimit } from './fields.js';
import { quotaJson } from './quota-json.js';
import { type AnyRoute, pageOf, route, signedInActor } from './route.js';

interface UserDeps {
  database: DataSource;
  quota: Quota;
}

const LIMITS = 'must be a whole number from 0 on (0 lets nothing in), null for no limit, or "default"';

/** A number; null: no limit; `default`: the limit of the configuration. */
const limit = z
  .union(
    [z.int(LIMITS).min(0, LIMITS).max(Number.MAX_SAFE_INTEGER, LIMITS), z.null(), z.literal('default')],
    LIMITS,
  )
  .transform((value) => (value === null ? UNLIMITED : value === 'default' ? null : value));

const userChange = z
  .strictObject({
    role: z.enum(['user', 'admin'], 'must be user or admin').optional(),
    disabled: z.boolean().optional(),
    maxBytes: limit.optional(),
    maxFiles: limit.optional(),
  })
  .refine(
    (change) => Object.keys(change).length > 0,
    'name at least one of role, disabled, maxBytes, maxFiles',
  )
  .meta({ minProperties: 1 });

/** Accounts, for admins. */
export function userRoutes({ database, quota }: UserDeps): AnyRoute[] {
  const toJson = (user: User): z.output<typeof account> => ({
    id: user.id,
    email: user.email,
    role: user.role,
    external: user.externalId !== null,
    disabled: user.disabledAt !== null,
    createdAt: user.createdAt,
    ...quotaJson(user, quota),
  });

  return [
    route({
      method: 'get',
      path: '/api/admin/users',
      access: 'admin',
      limit: 'status',
      summary: 'All accounts, oldest first',
      query: z.object({
        cursor: idCursor,
        limit: pageLimit,
      }),
      answers: { 200: accountPage, 304: EMPTY },
      async handle({ query }) {
        const found = await listUsers(database, query.cursor, query.limit + 1);
        const { items, nextCursor } = pageOf(found, query.limit, ({ id }) => id);
        return { items: items.map(toJson), nextCursor };
      },
    }),
    route({
      method: 'patch',
      path: '/api/admin/users/:id',
      access: 'admin',
      limit: 'processing',
      summary: 'Change the role or quota of an account, or disable it',
      params: byId,
      body: userChange,
      answers: { 200: account },
      problems: ['wrong_state'],
      async handle(call) {
        return toJson(await changeUser(database, call.params.id, call.body, signedInActor(call)));
      },
    }),
  ];
}
