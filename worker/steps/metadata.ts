import type { Step } from './step.js';

/** Reads the facts in an image: dimensions, format, orientation, colour; EXIF, GPS, IPTC, XMP. */
export const metadata: Step = {
  name: 'metadata',
  optional: true,
  skips: (file) => (file.detectedType?.startsWith('image/') ? undefined : 'not an image'),
  async run({ source, parsers, signal }) {
    return { metadata: await parsers.run('metadata', source, signal) };
  },
};
