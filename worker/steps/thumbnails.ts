import type { Facts } from '../../core/files/steps.js';
import type { Thumbnails } from '../../core/media/thumbnails.js';
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
      const made = await decode('thumbnails');
      const { damage } = made;
      const warnings = damage ? [{ step: 'thumbnails', code: 'damaged', detail: damage }] : [];
      return { outcome: 'done', facts: { derivatives: await storeThumbnails(derivatives, made), warnings } };
    },
  };
}

export async function storeThumbnails(
  derivatives: DerivativeStore,
  { thumbnails }: Thumbnails,
): Promise<NonNullable<Facts['derivatives']>> {
  const blobs = await derivatives.write(thumbnails.map(({ bytes }) => bytes));
  return thumbnails.flatMap(({ name, width, height }, index) => {
    const blob = blobs[index];
    return blob ? [{ name: `thumbnail-${name}`, blob, contentType: 'image/webp', width, height }] : [];
  });
}
