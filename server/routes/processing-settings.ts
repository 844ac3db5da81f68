import { z } from 'zod';
import type { Config } from '../../core/config.js';
import { nameOf } from '../../core/media/allowed.js';
import {
  canBeOptimized,
  completeSettings,
  describeSettings,
  imageSettings,
  problemsOfSettings,
} from '../../core/media/image-settings.js';
import { findTypeSettings, settingsFor } from '../../core/media/optimized-types.js';
import { checkedSettings, settingsOfType } from '../answers/processing.js';
import { type AnyRoute, route } from './route.js';

type SettingsDeps = Pick<Config, 'optimize'>;

/** The subtype of a media type (RFC 6838, 4.2). */
const NAME = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i;

const name = z.string().regex(NAME);

const toCheck = z.strictObject({
  settings: z.unknown().optional().describe('As ImageSettings'),
  type: z
    .string()
    .refine(canBeOptimized, 'must be a type of images that can be optimised, such as image/jpeg')
    .optional()
    .describe('By which they are completed; absent: image/jpeg'),
});

/** The settings by which images are optimised. */
export function processingSettingsRoutes({ optimize }: SettingsDeps): AnyRoute[] {
  function describe(mediaType: string): z.output<typeof settingsOfType> {
    const type = nameOf(mediaType);
    if (!canBeOptimized(type)) return { type, asked: false, defaults: null, fields: {} };
    return {
      type,
      asked: settingsFor(optimize, type, null) !== undefined,
      defaults: completeSettings(type, findTypeSettings(optimize, type)),
      fields: describeSettings(),
    };
  }

  return [
    // A media type has a slash. Clients write it as it is, or as %2F.
    route({
      method: 'get',
      path: '/api/processing/settings/:type/:subtype',
      access: 'upload',
      limit: 'status',
      summary: 'The settings for images of a media type: their defaults, and the allowed values',
      params: z.object({ type: name, subtype: name }),
      answers: { 200: settingsOfType },
      async handle({ params }) {
        return describe(`${params.type}/${params.subtype}`);
      },
    }),
    route({
      method: 'get',
      path: '/api/processing/settings/:type',
      access: 'upload',
      limit: 'status',
      summary: 'The same, with the slash of the media type written as %2F',
      params: z.object({ type: z.string().refine((type) => isType(type)) }),
      answers: { 200: settingsOfType },
      async handle({ params }) {
        return describe(params.type);
      },
    }),
    route({
      method: 'post',
      path: '/api/processing/settings/validate',
      access: 'upload',
      limit: 'status',
      summary:
        'Check settings without an upload: the answer has all settings, or what is wrong with each field',
      body: toCheck,
      answers: { 200: checkedSettings },
      async handle({ body }) {
        const { settings, type = 'image/jpeg' } = body;
        const problems = problemsOfSettings(settings);
        if (problems.length > 0) return { valid: false, settings: null, problems };
        const given = imageSettings.parse(settings);
        const complete = completeSettings(type, findTypeSettings(optimize, type), given);
        return { valid: true, settings: complete, problems };
      },
    }),
  ];
}

function isType(type: string): boolean {
  const parts = type.split('/');
  return parts.length === 2 && parts.every((part) => NAME.test(part));
}
