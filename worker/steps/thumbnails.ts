import type { Facts } from '../../core/files/steps.js';
import type { Thumbnail } from '../../core/media/thumbnails.js';
import type { DerivativeStore } from '../content.js';
import { ONLY_IMAGES, type Step } from './step.js';

/** Makes three WebP images, upright and never larger than the original. */
export function createThumbnailsStep({ derivatives }: { derivatives: DerivativeStore }): Step {
  return {
    name: 'thumbnails',
    optional: true,
    only: ONLY_IMAGES,
    decodes: ['thumbnails'],
    async run({ decode }) {
      // An image that waits for room on the disk must not be decoded at each try.
      await derivatives.requireRoom();
      const { thumbnails, damage } = await decode('thumbnails');
      const made = await storeThumbnails(derivatives, thumbnails);
      const warnings = damage ? [{ step: 'thumbnails', code: 'damaged', detail: damage }] : [];
      return { outcome: 'done', facts: { derivatives: made, warnings } };
    },
  };
}

/** Stores thumbnails. @returns the facts of them */
export async function storeThumbnails(
  derivatives: DerivativeStore,
  thumbnails: Thumbnail[],
): Promise<NonNullable<Facts['derivatives']>> {
  const blobs = await derivatives.write(thumbnails.map(({ bytes }) => bytes));
  return thumbnails.flatMap(({ name, width, height }, index) => {
    const blob = blobs[index];
    return blob ? [{ name: `thumbnail-${name}`, blob, contentType: 'image/webp', width, height }] : [];
  });
}
