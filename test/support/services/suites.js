// Finds out which test helpers the chosen suites use, so that only the services behind those are started.
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { promisify } from 'node:util';

const folder = resolve('test');
const IMPORT = /\bfrom '(\.{1,2}\/[^']+)\.js'/g;

/**
 * @param {string[]} command Jest's, with the arguments that choose suites
 * @returns {Promise<Set<string>>} the suites and all that they import from test/, as 'test/support/s3.ts'
 */
export async function listImports(command) {
  const found = new Set();
  /** @param {string} file */
  const visit = (file) => {
    const name = relative('.', file);
    if (found.has(name) || !file.startsWith(folder) || !existsSync(file)) return;
    found.add(name);
    for (const [, path] of readFileSync(file, 'utf8').matchAll(IMPORT)) {
      visit(`${resolve(dirname(file), path ?? '')}.ts`);
    }
  };
  for (const suite of await listSuites(command)) visit(suite);
  return found;
}

/** @param {string[]} command */
async function listSuites(command) {
  try {
    // With --json the list would be JSON too.
    const args = [...command.filter((arg) => arg !== '--json'), '--listTests'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    return stdout.trim().split('\n');
  } catch {
    // Jest itself will say what is wrong with its arguments.
    return [];
  }
}
