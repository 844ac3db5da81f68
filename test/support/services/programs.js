// Finds the programs that tests need, and installs those that are missing where that is possible.
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * @typedef {object} Need
 * @property {string[][]} programs names on the PATH; each list holds those that serve as well as each other
 * @property {string[]} packages that bring them on Debian
 * @property {string[]} variables that name a service elsewhere, so that no program is needed
 */

/** @param {string[]} names @returns {string | undefined} the path of the first that is on the PATH */
export function findProgram(names) {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable);
}

/**
 * Makes sure that the programs are there: on the PATH, or (as root on Debian) installed now.
 * @param {Need[]} needs
 * @throws {Error} with one line that says what to install
 */
export function ensurePrograms(needs) {
  if (needs.every(isMet)) return;
  if (process.getuid?.() === 0 && existsSync('/etc/debian_version')) {
    install(needs.filter((need) => !isMet(need)).flatMap((need) => need.packages));
  }
  const missing = needs.filter((need) => !isMet(need));
  if (missing.length > 0) {
    throw new Error(`These tests need ${missing.map(describe).join('; and ')}.`);
  }
}

/** @param {Need} need */
const isMet = (need) => need.programs.every(findProgram);

/** @param {Need} need */
function describe({ programs, packages, variables }) {
  const absent = programs.filter((names) => !findProgram(names)).map(([name]) => name);
  const otherwise = variables.length > 0 ? `, or else ${variables.join(', ')}` : '';
  return `${absent.join(', ')} on the PATH (Debian: apt-get install ${packages.join(' ')})${otherwise}`;
}

/** @param {string[]} packages */
function install(packages) {
  console.log(`Installing ${packages.join(', ')} …`);
  /** @param {string[]} args */
  const apt = (...args) =>
    execFileSync('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', ...args], {
      stdio: ['ignore', 'ignore', 'inherit'],
      // In runlevel 1 Debian's scripts start no services where systemd does not run; tests use none of them.
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
    });
  try {
    apt('update');
    apt('install', '-y', '--no-install-recommends', ...packages);
  } catch {
    // apt has printed the reason; the caller names the programs that are still missing.
  }
}

/** @param {string} file */
function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
