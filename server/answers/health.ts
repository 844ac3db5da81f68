import { z } from 'zod';

export const live = z.object({ status: z.literal('ok') });

export const ready = live.extend({ warnings: z.array(z.enum(['storage_full'])).optional() });
