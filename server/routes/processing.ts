import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Estimates } from '../../core/files/estimates.js';
import { explain } from '../../core/files/failures.js';
import { getFile } from '../../core/files/queries.js';
import { parseSettings } from '../../core/media/image-settings.js';
import { MAX_MEDIA_TYPE, MEDIA_TYPE } from '../../core/uploads/description.js';
import { processingEstimate, processingStatus } from '../answers/processing.js';
import { byId } from './fields.js';
import { attemptsOf } from './file-json.js';
import { type AnyRoute, route } from './route.js';

interface ProcessingDeps {
  database: DataSource;
  estimates: Estimates;
}

const newFile = z.object({
  size: z
    .string()
    .regex(/^\d{1,16}$/, 'must be a number of bytes')
    .transform(Number)
    .refine(Number.isSafeInteger, 'must be a number of bytes'),
  type: z
    .string()
    .max(MAX_MEDIA_TYPE, `must have at most ${MAX_MEDIA_TYPE} characters`)
    .regex(MEDIA_TYPE, 'must be a media type such as image/png')
    .optional(),
  settings: z.string().optional().describe('JSON, as ImageSettings'),
});

/** How far the processing of a file has come, and how long that of a new file will take. */
export function processingRoutes({ database, estimates }: ProcessingDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/files/:id/status',
      access: 'read',
      limit: 'status',
      summary: 'The state of the processing of a file',
      params: byId,
      answers: { 200: processingStatus },
      async handle(call) {
        const file = call.own(await getFile(database, call.params.id));
        const { status, step, progress, error } = file;
        return {
          status,
          step,
          progress,
          attempts: attemptsOf(file),
          etaSeconds: await estimates.secondsLeft(file),
          error: error && { ...error, message: explain(error, status) },
        };
      },
    }),
    route({
      method: 'get',
      path: '/api/processing/estimate',
      access: 'upload',
      limit: 'status',
      summary:
        'How long a new file of this size and type, with these settings, will probably take, from its last byte on',
      query: newFile,
      answers: { 200: processingEstimate },
      async handle(call) {
        const { size, type = null, settings } = call.query;
        const given = settings ? parseSettings(settings) : null;
        const { seconds, waitSeconds, basis } = await estimates.forNewFile(type, size, given);
        return { etaSeconds: seconds, waitSeconds, basis };
      },
    }),
  ];
}
