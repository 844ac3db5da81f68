import type { DerivativeStore } from '../content.js';
import { ONLY_MEDIA, type Step } from './step.js';
import { storeThumbnails } from './thumbnails.js';

/** Reads the facts and tags of sound and video, and makes thumbnails of the cover. Nothing but the cover is decoded. */
export function createMediaStep({ derivatives }: { derivatives: DerivativeStore }): Step {
  return {
    name: 'media',
    optional: true,
    only: ONLY_MEDIA,
    decodes: ['media'],
    async run({ file, decode }) {
      const type = file.detectedType ?? '';
      const media = await decode('media', { type });
      if (!media) return { outcome: 'skipped', reason: `no facts are read of ${type}` };
      const { metadata, cover, coverProblem } = media;
      return {
        outcome: 'done',
        facts: {
          metadata,
          derivatives: cover ? await storeThumbnails(derivatives, cover) : [],
          warnings: coverProblem ? [{ step: 'media', ...coverProblem }] : [],
        },
      };
    },
  };
}
