// An S3 server for tests: a Ceph node of our own, in memory. It ends by itself when the process that started
// it ends, for whatever reason.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePort } from './port.js';

const SCRIPT = fileURLToPath(new URL('ceph-rgw.sh', import.meta.url));
const ACCESS_KEY = 'landfall-test';
const SECRET_KEY = 'only-for-tests-only-for-tests';

/** @returns {Promise<import('./services.js').Started>} */
export async function startCeph() {
  const port = String(await freePort());
  const script = spawn(SCRIPT, [port, String(await freePort()), ACCESS_KEY, SECRET_KEY], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(script, 'exit');
  const failed = ended.then(([code]) => Promise.reject(new Error(`Ceph did not start (exit code ${code}).`)));
  // The programs that it calls may print other lines first.
  const ready = new Promise((resolve) => {
    let output = '';
    script.stdout.on('data', (chunk) => {
      output += chunk;
      if (/^ready$/m.test(output)) resolve(undefined);
    });
  });
  await Promise.race([ready, failed]);
  failed.catch(() => {});
  return {
    env: {
      TEST_S3_ENDPOINT: `http://127.0.0.1:${port}`,
      TEST_S3_ACCESS_KEY_ID: ACCESS_KEY,
      TEST_S3_SECRET_ACCESS_KEY: SECRET_KEY,
    },
    async stop() {
      script.stdin.end();
      await ended;
    },
  };
}
