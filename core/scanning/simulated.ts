import type { Scan, Scanner } from './scanner.js';

/*
 * The simulated scanner: it finds the EICAR test string (eicar.org) anywhere in the stream. The source holds
 * the string in two halves, because virus scanners would otherwise report this file.
 */
const SIGNATURE = Buffer.from('X5O!P%@AP[4\\PZX54(P^)7CC)7}$' + 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*');

export const simulatedScanner: Scanner = { version: async () => null, begin: beginScan };

function beginScan(): Scan {
  /** The last bytes of the stream so far, too few to contain the whole signature. */
  let tail = Buffer.alloc(0);
  let found = false;
  return {
    push(chunk) {
      if (found) return undefined;
      const keep = SIGNATURE.length - 1;
      const border = Buffer.concat([tail, chunk.subarray(0, keep)]);
      found = border.includes(SIGNATURE) || chunk.includes(SIGNATURE);
      tail = chunk.length >= keep ? Buffer.from(chunk.subarray(-keep)) : border.subarray(-keep);
      return undefined;
    },
    async end() {
      const verdict = found
        ? ({ kind: 'infected', threat: 'EICAR test string' } as const)
        : ({ kind: 'clean' } as const);
      return { verdict, version: null };
    },
  };
}
