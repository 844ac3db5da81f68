// Runs the tests like run.js and says which lines they ran: in Jest, and in the servers, workers and commands that suites
// start from dist/. Not counted: processes that were killed, and parser processes, which may write no file.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mergeScriptCovs } from '@bcoe/v8-coverage';
import coverage from 'istanbul-lib-coverage';
import report from 'istanbul-lib-report';
import reports from 'istanbul-reports';
import v8ToIstanbul from 'v8-to-istanbul';

const folder = resolve('coverage');
const ofJest = `${folder}/jest`;
/** Node writes a file for each process there; support/coverage.ts tells the processes. */
const ofProcesses = `${folder}/processes`;
const OURS = ['core', 'server', 'worker', 'cli', 'migrations'];

/** @typedef {import('@bcoe/v8-coverage').ScriptCov} Script */

/** @returns {Map<string, Script>} the coverage of each of our built files, of all processes together */
function readProcesses() {
  const merged = new Map();
  const ours = OURS.map((name) => `${resolve('dist', name)}/`);
  for (const name of existing(ofProcesses)) {
    /** @type {{ result: Script[] }} */
    const { result } = JSON.parse(readFileSync(`${ofProcesses}/${name}`, 'utf8'));
    for (const script of result) {
      const path = script.url.startsWith('file:') ? fileURLToPath(script.url) : '';
      if (!ours.some((one) => path.startsWith(one))) continue;
      const before = merged.get(path);
      merged.set(path, before ? mergeScriptCovs([before, script]) : script);
    }
  }
  return merged;
}

/** @param {string} path @returns {string[]} the files in it; none if it is not there */
function existing(path) {
  return statSync(path, { throwIfNoEntry: false }) ? readdirSync(path) : [];
}

rmSync(folder, { recursive: true, force: true });
const options = [
  ...['--coverage', '--coverageProvider=v8', '--coverageReporters=json', `--coverageDirectory=${ofJest}`],
  ...OURS.map((name) => `--collectCoverageFrom=${name}/**/*.ts`),
];
const tests = spawn(process.execPath, ['test/run.js', ...options, ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, TEST_COVERAGE: ofProcesses },
});
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => tests.kill(signal));
}
const [code] = await once(tests, 'exit');

const map = coverage.createCoverageMap({});
if (existing(ofJest).includes('coverage-final.json')) {
  map.merge(JSON.parse(readFileSync(`${ofJest}/coverage-final.json`, 'utf8')));
}
for (const [path, script] of readProcesses()) {
  const converter = v8ToIstanbul(path);
  await converter.load();
  converter.applyCoverage(script.functions);
  map.merge(converter.toIstanbul());
}
rmSync(ofProcesses, { recursive: true, force: true });
rmSync(ofJest, { recursive: true, force: true });
const context = report.createContext({ dir: folder, coverageMap: map });
for (const kind of /** @type {const} */ (['text-summary', 'html', 'lcovonly']))
  reports.create(kind).execute(context);
console.log(`By file and line: ${folder}/index.html; for other programs: ${folder}/lcov.info`);
process.exitCode = code ?? 1;
