// Starts the longest suites first, so that no worker still runs one when all others have ended. Jest knows how long a
// suite takes once it has run it on this machine; before that it goes by the size of the file, which tells little of
// suites that wait for processes and for time.
import { basename } from 'node:path';
import Sequencer from '@jest/test-sequencer';

/** The longest comes first. */
const LONGEST = [
  'standalone',
  'crash',
  'reconcile',
  'processing',
  'quota-deferred',
  'claim',
  'account-page',
  'concatenation',
  'control',
  'ietf',
  'audit-verify',
  'checksum',
  'upload-tokens',
  'two-servers',
  'command-line',
  'live',
  'redis-outage',
  'rolling-restart',
];

/** @param {{ path: string }} test @returns {number} its place in the list, or a place behind all of it */
function rank({ path }) {
  const place = LONGEST.indexOf(basename(path, '.test.ts'));
  return place < 0 ? LONGEST.length : place;
}

export default class LongestFirst extends Sequencer {
  /** @param {{ path: string }[]} tests */
  sort(tests) {
    return super.sort(tests).sort((one, other) => rank(one) - rank(other));
  }
}
