import { z } from 'zod';
import { bytes, id, pageOf, timestamp } from './shapes.js';

const role = z.enum(['user', 'admin']);

export const user = z.object({ id, email: z.string(), role });

const count = z.int().min(0);

/** The quota and the usage of a user. */
export const usage = z.object({
  quota: z.object({ bytes: bytes.nullable(), files: count.nullable() }).describe('Null means no limit'),
  usage: z.object({ bytes, files: count }),
});

export const me = user.extend(usage.shape);

const session = z
  .object({
    id,
    current: z.boolean().describe('Whether it is the session of this request'),
    createdAt: timestamp,
    lastUsedAt: timestamp,
    expiresAt: timestamp,
    address: z.string().nullable().describe('From which it was last used'),
    userAgent: z.string().nullable(),
  })
  .meta({ id: 'Session' });

export const sessionPage = pageOf(session);

export type UserJson = z.input<typeof user>;

export type UsageJson = z.input<typeof usage>;

export type OpenSessionJson = z.input<typeof session>;

export type SessionPageJson = z.input<typeof sessionPage>;
