import type { Deliver } from '../../core/delivery/deliver.js';
import type { Step } from './step.js';

/** Delivers the file to where other systems expect it. Comes last: a file is delivered when all other steps have ended. */
export function createDeliverStep(deliver: Deliver): Step {
  return {
    name: 'deliver',
    optional: false,
    async run({ file, signal }) {
      const outcome = await deliver(file.id, signal);
      if (outcome === 'delivered') return { outcome: 'done', facts: {} };
      const reason = outcome === 'earlier' ? 'delivered earlier' : 'no destination for this file';
      return { outcome: 'skipped', reason };
    },
  };
}
