import { toPlainJson } from '../plain-json.js';
import { decodeText } from '../text.js';
import type { Description } from './description.js';

/* The listing of an archive, which counts all entries and keeps the names of the first ones. */

const MAX_NAMES = 100;

/** Characters of a name. */
const MAX_NAME = 255;

export interface Listing {
  /** @param name its bytes @param size bytes of the content, as the archive tells */
  add(name: Uint8Array, size: number): void;
  /** @param more facts that the listing does not know */
  describe(more: { format: string } & Record<string, unknown>, problem?: string): Description;
}

export function createListing(): Listing {
  let entries = 0;
  let totalSize = 0;
  const names: string[] = [];
  return {
    add(name, size) {
      entries++;
      totalSize += size;
      if (names.length < MAX_NAMES) names.push(clean(name));
    },
    describe(more, problem) {
      const facts = { entries, totalSize, encrypted: false, complete: problem === undefined, names, ...more };
      const warnings = problem === undefined ? [] : [{ code: 'damaged', detail: problem }];
      return { facts: toPlainJson(facts), thumbnails: [], warnings };
    },
  };
}

/** Names are UTF-8 or in an encoding that nobody tells. */
function clean(name: Uint8Array): string {
  const text = decodeText(name) ?? '';
  return text.replaceAll(/\p{Cc}/gu, '').slice(0, MAX_NAME);
}
