import { parseArgs } from 'node:util';
import { loadConfig, readEnvironment } from '../config.js';
import { ConfigError } from '../config-error.js';
import { withDatabase } from '../database/embedded/installation.js';
import { hasCode } from '../errors.js';
import { type EventHead, formatHead } from '../events/sequence.js';
import { LogDamage, verifyEvents } from '../events/verify.js';
import { failStart } from '../lifecycle.js';

/* `npm run audit:verify`: checks the event log. Exit code 0: intact; 1: damaged; 2: the check could not run. */

const USAGE = 'npm run audit:verify -- [--expect <seq>:<hash>]';

/** @returns the head that must be in the chain @throws {ConfigError} */
function readExpected(): EventHead | undefined {
  let expect: string | undefined;
  try {
    ({ expect } = parseArgs({ options: { expect: { type: 'string' } } }).values);
  } catch (error) {
    throw new ConfigError(`${error instanceof Error ? error.message : error}. Usage: ${USAGE}`);
  }
  if (expect === undefined) return undefined;
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/i.exec(expect) ?? [];
  if (!seq || !hash) {
    throw new ConfigError(
      `--expect ${expect}: must be a head as it was printed, <seq>:<64 hexadecimal digits>. Usage: ${USAGE}`,
    );
  }
  return { seq: Number(seq), hash: Buffer.from(hash, 'hex') };
}

async function run(expected: EventHead | undefined): Promise<void> {
  const head = await withDatabase(loadConfig(readEnvironment()), 'landfall audit', (database) =>
    verifyEvents(database, expected).catch((error: unknown) => {
      // 42P01: no such table; 42703: no such column.
      if (!hasCode(error, '42P01') && !hasCode(error, '42703')) throw error;
      throw new ConfigError(
        'This database is not one of this version: run npm run migrate, or npm start, first',
      );
    }),
  );
  console.log(`${head.seq} events checked: nothing is missing, nothing was changed`);
  if (expected) console.log(`${formatHead(expected)} is among them`);
  console.log(`Note this head where nobody can reach it who can reach the database:\n${formatHead(head)}`);
}

try {
  await run(readExpected());
} catch (error) {
  failStart(error, error instanceof LogDamage ? 1 : 2);
}
