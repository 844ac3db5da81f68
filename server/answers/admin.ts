import { z } from 'zod';
import { usage, user } from './account.js';
import { id, pageOf, timestamp } from './shapes.js';

/** An account, as admins see it. */
export const account = user
  .extend({
    external: z.boolean().describe('Whether an identity provider keeps the password'),
    disabled: z.boolean(),
    createdAt: timestamp,
    ...usage.shape,
  })
  .meta({ id: 'Account' });

export const accountPage = pageOf(account);

/** An invitation, without its token. */
export const invitation = z
  .object({ id, email: z.string().nullable(), createdAt: timestamp, expiresAt: timestamp })
  .meta({ id: 'Invitation' });

export const invitationPage = pageOf(invitation);

export const newInvitation = invitation.extend({
  token: z.string().describe('It is shown here and never again'),
});

const actor = z.object({
  userId: z.string(),
  sessionId: z.string(),
  keyId: z.string(),
  uploadTokenId: z.string(),
  address: z.string(),
  userAgent: z.string(),
  requestId: z.string(),
});

export const auditPage = pageOf(
  z.object({
    seq: z.int().nullable(),
    type: z.string().describe('Such as `auth.login`'),
    result: z.enum(['ok', 'refused']),
    subjectId: id.nullable(),
    ownerId: id.nullable(),
    actor: actor.partial().nullable().describe('Null: the system itself'),
    data: z.record(z.string(), z.unknown()),
    createdAt: timestamp,
    hash: z.string().nullable().describe('Hex; chains the event to the one before it'),
  }),
);

export const logLevel = z.object({
  level: z
    .enum(['error', 'warn', 'info', 'debug', 'trace'])
    .nullable()
    .describe('Of all servers and workers; null: each has the level of its configuration'),
  until: timestamp.nullable().describe('Then each goes back to the level of its configuration'),
});

export type AccountJson = z.input<typeof account>;

export type AccountPageJson = z.input<typeof accountPage>;

export type InvitationJson = z.input<typeof invitation>;

export type InvitationPageJson = z.input<typeof invitationPage>;

export type NewInvitationJson = z.input<typeof newInvitation>;
