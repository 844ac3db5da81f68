import type { Step } from './step.js';

/** Makes three WebP images, upright and never larger than the original. */
export const thumbnails: Step = {
  name: 'thumbnails',
  optional: true,
  skips: (file) => (file.detectedType?.startsWith('image/') ? undefined : 'not an image'),
  async run({ source, parsers, writeBlobs, signal }) {
    const { thumbnails: made, damage } = await parsers.run('thumbnails', source, signal);
    const blobs = await writeBlobs(made.map(({ bytes }) => bytes));
    const derivatives = made.flatMap(({ name, width, height }, index) => {
      const blob = blobs[index];
      return blob ? [{ name: `thumbnail-${name}`, blob, contentType: 'image/webp', width, height }] : [];
    });
    return {
      derivatives,
      ...(damage ? { warnings: [{ step: 'thumbnails', code: 'damaged', detail: damage }] } : {}),
    };
  },
};
