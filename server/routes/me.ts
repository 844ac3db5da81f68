import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Quota } from '../../core/config.js';
import { Session } from '../../core/database/entities/session.js';
import { changePassword, getUser } from '../accounts/accounts.js';
import { me, sessionPage } from '../answers/account.js';
import { getOwned } from '../auth/owned.js';
import { endSessions, listSessions } from '../auth/sessions.js';
import { EMPTY } from './answers.js';
import { byId, password } from './fields.js';
import { quotaJson } from './quota-json.js';
import { type AnyRoute, route, signedInActor, userOf } from './route.js';

interface MeDeps {
  database: DataSource;
  quota: Quota;
}

/** The caller's account, quota, password and sessions. */
export function meRoutes({ database, quota }: MeDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/me',
      access: 'read',
      limit: 'status',
      summary: 'My account, my usage and my quota',
      answers: { 200: me },
      async handle(call) {
        const user = await getUser(database, userOf(call).userId);
        return { id: user.id, email: user.email, role: user.role, ...quotaJson(user, quota) };
      },
    }),
    route({
      method: 'post',
      path: '/api/me/password',
      access: 'account',
      limit: 'auth',
      summary: 'Change my password; ends all my other sessions',
      body: z.object({ currentPassword: z.string().max(200), newPassword: password }),
      answers: { 204: EMPTY },
      problems: ['wrong_credentials', 'wrong_state'],
      async handle(call) {
        const { currentPassword: current, newPassword: next } = call.body;
        const actor = signedInActor(call);
        await changePassword(database, await getUser(database, actor.userId), { current, next }, actor);
      },
    }),
    route({
      method: 'get',
      path: '/api/me/sessions',
      access: 'account',
      limit: 'status',
      summary: 'My open sessions',
      answers: { 200: sessionPage, 304: EMPTY },
      async handle(call) {
        const { userId, sessionId } = userOf(call);
        const sessions = await listSessions(database, userId);
        return {
          items: sessions.map((session) => ({
            id: session.id,
            current: session.id === sessionId,
            createdAt: session.createdAt,
            lastUsedAt: session.lastUsedAt,
            expiresAt: session.expiresAt,
            address: session.address,
            userAgent: session.userAgent,
          })),
          nextCursor: null,
        };
      },
    }),
    route({
      method: 'delete',
      path: '/api/me/sessions',
      access: 'account',
      limit: 'processing',
      summary: 'End all my other sessions',
      answers: { 204: EMPTY },
      async handle(call) {
        const actor = signedInActor(call);
        await endSessions(database, actor, { except: actor.sessionId });
      },
    }),
    route({
      method: 'delete',
      path: '/api/me/sessions/:id',
      access: 'account',
      limit: 'processing',
      summary: 'End one of my sessions',
      params: byId,
      answers: { 204: EMPTY },
      async handle(call) {
        const actor = signedInActor(call);
        const { id: only } = call.own(await getOwned(database, Session, call.params.id));
        await endSessions(database, actor, { only });
      },
    }),
  ];
}
