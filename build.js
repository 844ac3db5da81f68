// Builds the server, the worker and the page into dist/, and does nothing when dist/ is newer than every source.
//   --force  builds all the same
//   --start  starts all of it afterwards
import { execFileSync } from 'node:child_process';
import { readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';

const stamp = 'dist/.built';
const sources = ['core', 'server', 'worker', 'web', 'migrations', 'bench'];
const inputs = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json', 'build.js'];

/** @param {string} folder @returns {string[]} every file below it, and the folders themselves */
function walk(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true }).map(
    (e) => `${e.parentPath}/${e.name}`,
  );
}

function upToDate() {
  const built = statSync(stamp, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return [...inputs, ...sources, ...sources.flatMap(walk)].every((file) => statSync(file).mtimeMs <= built);
}

if (process.argv.includes('--force') || !upToDate()) {
  const started = new Date();
  const run = (tool, ...args) =>
    execFileSync(process.execPath, [tool, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  console.log('Building Landfall …');
  run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json');
  run('node_modules/vite/bin/vite.js', 'build', 'web', '--logLevel', 'warn');
  writeFileSync(stamp, '');
  utimesSync(stamp, started, started);
}

if (process.argv.includes('--start')) await import('./dist/server/standalone/supervisor.js');
