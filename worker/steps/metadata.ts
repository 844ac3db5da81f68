import { ONLY_IMAGES, type Step } from './step.js';

/** Reads the facts in an image: dimensions, format, orientation, colour; EXIF, GPS, IPTC, XMP. */
export function createMetadataStep(): Step {
  return {
    name: 'metadata',
    optional: true,
    only: ONLY_IMAGES,
    decodes: ['metadata'],
    async run({ decode }) {
      return { outcome: 'done', facts: { metadata: await decode('metadata') } };
    },
  };
}
