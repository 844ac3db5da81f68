import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type Processes, startProcesses } from './support/processes.js';
import { freePort } from './support/services/port.js';
import { until } from './support/until.js';

/* How a container runtime finds out whether a worker hangs: by the command that the image names. */

const run = promisify(execFile);

/** Of the image's HEALTHCHECK. */
const TIMEOUT_MS = 3_000;

let processes: Processes;
let port: number;

beforeAll(async () => {
  port = await freePort();
  processes = await startProcesses({ HEALTH_PORT: String(port) }, ['worker']);
});
afterAll(() => processes?.close());

/** Runs the image's check, as the runtime would. */
async function check(): Promise<boolean> {
  const [, json = ''] =
    /^HEALTHCHECK .*\\\n\s*CMD (.*)$/m.exec(await readFile('Dockerfile.worker', 'utf8')) ?? [];
  const [, ...args] = JSON.parse(json) as string[];
  const env = { HEALTH_PORT: String(port) };
  return run(process.execPath, args, { env, timeout: TIMEOUT_MS }).then(
    () => true,
    () => false,
  );
}

test('a worker that works is healthy, one that stands still is not', async () => {
  // On a busy machine the check itself may take longer than it may.
  await until('it to be healthy', check);
  process.kill(processes.pid('worker'), 'SIGSTOP');
  expect(await check()).toBe(false);
  process.kill(processes.pid('worker'), 'SIGCONT');
  await until('it to be healthy again', check);
  await processes.kill('worker');
  expect(await check()).toBe(false);
});
