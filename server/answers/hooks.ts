import { z } from 'zod';
import { timestamp } from './shapes.js';

/** The hooks of this installation, as admins see them. */
export const hooks = z
  .object({
    url: z.string().nullable().describe('Without user, password and query; null: no hook is configured'),
    events: z.array(z.string()),
    absent: z.enum(['refuse', 'allow']).describe('What silence of the receiver means'),
    auth: z.boolean().describe('Whether the hook names the owners of uploads of unknown senders (AUTH=hook)'),
    results: z
      .array(
        z.object({
          type: z.string().describe('Such as `pre-create`'),
          asked: z.int(),
          refused: z.int(),
          failed: z.int().describe('Questions without a usable answer'),
          lastAt: timestamp.nullable(),
          lastMs: z.int().nullable(),
          lastFailedAt: timestamp.nullable(),
          lastError: z.string().nullable(),
        }),
      )
      .describe('Over all servers and workers, some seconds old'),
  })
  .meta({ id: 'Hooks' });

/** The outcome of a question to try the receiver. */
export const hookTrial = z
  .object({
    answered: z.boolean(),
    accepted: z.boolean().nullable().describe('Null: there is no usable answer'),
    durationMs: z.int(),
    error: z.string().nullable(),
  })
  .meta({ id: 'HookTrial' });
