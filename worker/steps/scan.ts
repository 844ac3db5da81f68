import type { StreamObserver, StreamStep } from './step.js';

/*
 * The simulated scanner: it finds the EICAR test string (eicar.org) anywhere in the stream. The source holds
 * the string in two halves, because virus scanners would otherwise report this file.
 */
const SIGNATURE = Buffer.from('X5O!P%@AP[4\\PZX54(P^)7CC)7}$' + 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*');

/** Its `threat` names what the scan found; a file with a threat is never served. */
export function createScanStep(): StreamStep {
  return { name: 'scan', begin: beginScan };
}

function beginScan(): StreamObserver {
  /** The last bytes of the stream so far, too few to contain the whole signature. */
  let tail = Buffer.alloc(0);
  let found = false;
  return {
    push(chunk) {
      if (found) return;
      const keep = SIGNATURE.length - 1;
      const border = Buffer.concat([tail, chunk.subarray(0, keep)]);
      found = border.includes(SIGNATURE) || chunk.includes(SIGNATURE);
      tail = chunk.length >= keep ? Buffer.from(chunk.subarray(-keep)) : border.subarray(-keep);
    },
    end() {
      const facts = found ? { clean: false, threat: 'EICAR test string' } : { clean: true };
      return { outcome: 'done', facts };
    },
  };
}
