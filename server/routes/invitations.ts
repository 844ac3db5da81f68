import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Invitation } from '../../core/database/entities/invitation.js';
import { createInvitation, listInvitations, revokeInvitation } from '../accounts/invitations.js';
import { invitation as invitationAnswer, invitationPage, newInvitation } from '../answers/admin.js';
import { EMPTY } from './answers.js';
import { byId } from './fields.js';
import { type AnyRoute, route, signedInActor } from './route.js';

/** Invitations to register, for admins. */
export function invitationRoutes({ database }: { database: DataSource }): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/admin/invitations',
      access: 'admin',
      limit: 'status',
      summary: 'Invitations that can still be used, newest first',
      answers: { 200: invitationPage, 304: EMPTY },
      async handle() {
        const invitations = await listInvitations(database);
        return { items: invitations.map(toJson), nextCursor: null };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/invitations',
      access: 'admin',
      keyed: true,
      limit: 'processing',
      summary: 'Invite somebody to register; the token is shown here and never again',
      body: z.object({
        email: z.email('must be an e-mail address').max(254).optional(),
        expiresInHours: z.int().min(1).max(8760).default(168),
      }),
      answers: { 201: newInvitation },
      async handle(call) {
        const { invitation, token } = await createInvitation(database, call.body, signedInActor(call));
        call.res.setHeader('Cache-Control', 'no-store');
        return { ...toJson(invitation), token };
      },
    }),
    route({
      method: 'delete',
      path: '/api/admin/invitations/:id',
      access: 'admin',
      limit: 'processing',
      summary: 'Revoke an invitation',
      params: byId,
      answers: { 204: EMPTY },
      async handle(call) {
        await revokeInvitation(database, call.params.id, signedInActor(call));
      },
    }),
  ];
}

function toJson({ id, email, createdAt, expiresAt }: Invitation): z.output<typeof invitationAnswer> {
  return { id, email, createdAt, expiresAt };
}
