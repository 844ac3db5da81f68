import type { DerivativeStore } from '../content.js';
import { ONLY_IMAGES, type Step } from './step.js';

/** Makes three WebP images, upright and never larger than the original, and a placeholder. */
export function createThumbnailsStep({ derivatives }: { derivatives: DerivativeStore }): Step {
  return {
    name: 'thumbnails',
    optional: true,
    only: ONLY_IMAGES,
    decodes: ['thumbnails'],
    async run({ decode }) {
      // An image that waits for room on the disk must not be decoded at each try.
      await derivatives.requireRoom();
      const { thumbnails, placeholder, damage } = await decode('thumbnails');
      const blobs = await derivatives.write(thumbnails.map(({ bytes }) => bytes));
      const made = thumbnails.flatMap(({ name, width, height }, index) => {
        const blob = blobs[index];
        return blob ? [{ name: `thumbnail-${name}`, blob, contentType: 'image/webp', width, height }] : [];
      });
      const warnings = damage ? [{ step: 'thumbnails', code: 'damaged', detail: damage }] : [];
      return {
        outcome: 'done',
        facts: { derivatives: made, warnings, ...(placeholder ? { placeholder } : {}) },
      };
    },
  };
}
