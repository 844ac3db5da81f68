// Finds or starts the services that the chosen suites need, runs Jest with the given arguments, and stops the
// services that it has started. support/services/services.js lists the services and the variables that name
// one elsewhere.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { startServices } from './support/services/services.js';
import { listImports } from './support/services/suites.js';

const command = [
  '--experimental-vm-modules',
  '--disable-warning=ExperimentalWarning',
  'node_modules/jest/bin/jest.js',
  ...process.argv.slice(2),
];

let interrupted = false;
/** @type {import('node:child_process').ChildProcess | undefined} */
let jest;
// The services must be stopped too when a signal ends Jest.
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => {
    interrupted = true;
    jest?.kill(signal);
  });
}

/** @param {Record<string, string>} env */
async function runJest(env) {
  jest = spawn(process.execPath, command, { stdio: 'inherit', env: { ...process.env, ...env } });
  const [code] = await once(jest, 'exit');
  return code ?? 1;
}

try {
  const services = await startServices(await listImports(command));
  try {
    process.exitCode = interrupted ? 1 : await runJest(services.env);
  } finally {
    await services.stop();
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
