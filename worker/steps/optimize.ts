import { compressionRatio, OPTIMIZED, type OptimizedFact } from '../../core/files/optimized.js';
import { canBeOptimized } from '../../core/media/image-settings.js';
import { settingsFor, type TypeSettings } from '../../core/media/optimized-types.js';
import type { DerivativeStore } from '../content.js';
import type { KnownFile, Step } from './step.js';

export interface OptimizeDeps {
  derivatives: DerivativeStore;
  /** The settings for types. */
  optimize: readonly TypeSettings[];
}

/** Makes the derivative `optimized` of images for which settings ask for it, and records what it saves. */
export function createOptimizeStep({ derivatives, optimize }: OptimizeDeps): Step {
  const settingsOf = ({ detectedType, settings }: KnownFile) =>
    settingsFor(optimize, detectedType ?? '', settings);

  return {
    name: 'optimize',
    optional: true,
    only: { accepts: canBeOptimized, otherwise: 'not an image that can be optimised' },
    skips: (file) => (settingsOf(file) ? undefined : 'no settings ask for it'),
    decodes: ['optimize'],
    makes: [OPTIMIZED],
    async run({ file, decode }) {
      const settings = settingsOf(file);
      if (!settings) throw new Error('a file without settings was not skipped');
      // An image that waits for room on the disk must not be decoded at each try.
      await derivatives.requireRoom();
      const { bytes, reason, ...made } = await decode('optimize', settings);
      const size = bytes?.length ?? file.size;
      const fact: OptimizedFact = {
        result: bytes ? 'made' : 'original',
        ...(reason ? { reason } : {}),
        originalSize: file.size,
        size,
        ratio: compressionRatio(size, file.size),
        ...made,
        settings,
      };
      const [blob] = bytes ? await derivatives.write([bytes]) : [];
      const { width, height } = made;
      const contentType = `image/${made.format}`;
      return {
        outcome: 'done',
        facts: {
          metadata: { [OPTIMIZED]: fact },
          ...(blob ? { derivatives: [{ name: OPTIMIZED, blob, contentType, width, height }] } : {}),
        },
      };
    },
  };
}
