import { z } from 'zod';
import { timestamp } from './shapes.js';

export const eventLink = z.object({
  url: z
    .string()
    .describe('Path and query of GET /api/events, for an EventSource; `file`, `type`, `after` can be added'),
  expiresAt: timestamp,
});
