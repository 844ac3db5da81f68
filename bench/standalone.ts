import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Measured, startScript } from './programs.js';

/**
 * Starts all of Landfall in a folder of its own, as `npm start` does. `pid` is the server's.
 * @param env further environment
 */
export async function startLandfall(env: Record<string, string> = {}): Promise<Measured & { token: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'landfall-bench-'));
  // If root starts it, PostgreSQL runs as another user, and that user must be able to enter the folder.
  chmodSync(folder, 0o711);
  const system = await startScript('../server/standalone/supervisor.js', {
    DATA_DIR: join(folder, 'data'),
    ...env,
  });
  return {
    ...system,
    pid: findChild(system.pid, 'server/main.js'),
    token: await register(system.url),
    async stop() {
      await system.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Makes an account. @returns its access token */
export async function register(url: string, email = 'bench@example.org'): Promise<string> {
  const answer = await fetch(`${url}/api/auth/register`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ email, password: 'only for the bench' }),
  });
  const { accessToken } = (await answer.json()) as { accessToken: string };
  return accessToken;
}

function findChild(parent: number, script: string): number {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8')
    .trim()
    .split(' ')
    .map(Number);
  const found = children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(script));
  if (!found) throw new Error(`no child runs ${script}`);
  return found;
}
