import { kindOf } from '../../core/media/documents/kinds.js';
import { languageOf } from '../../core/media/documents/languages.js';
import type { DerivativeStore } from '../content.js';
import type { Step } from './step.js';
import { storeThumbnails } from './thumbnails.js';

const NO_DOCUMENT = 'not a document, text or archive';

/** Reads the facts of a document, under the key of its kind, and makes its thumbnails. */
export function createDocumentStep({ derivatives }: { derivatives: DerivativeStore }): Step {
  return {
    name: 'document',
    optional: true,
    only: { accepts: (type) => kindOf(type) !== undefined, otherwise: NO_DOCUMENT },
    decodes: ['document'],
    async run({ file, decode, decodeEnds }) {
      const kind = kindOf(file.detectedType ?? '');
      if (!kind) return { outcome: 'skipped', reason: NO_DOCUMENT };
      // A document that waits for room on the disk must not be read at each try.
      await derivatives.requireRoom();
      const read = kind.endsOnly ? decodeEnds : decode;
      const { facts, thumbnails, warnings } = await read('document', { reader: kind.reader });
      const language = kind.key === 'text' ? languageOf(file.filename) : {};
      return {
        outcome: 'done',
        facts: {
          metadata: { [kind.key]: { ...facts, ...language } },
          derivatives: thumbnails.length > 0 ? await storeThumbnails(derivatives, { thumbnails }) : [],
          warnings: warnings.map((warning) => ({ step: 'document', ...warning })),
        },
      };
    },
  };
}
