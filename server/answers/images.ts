import { z } from 'zod';
import { timestamp } from './shapes.js';

export const imageLink = z.object({
  url: z.string().describe('Path and query of GET /api/files/{id}/image'),
  expiresAt: timestamp,
});
