import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fastFolder } from './services/memory.js';
import { until } from './until.js';

export interface System {
  /** Of the page, without a trailing slash. */
  url: string;
  dataDir: string;
  /** Ends it as Ctrl-C does; its folder stays. */
  end(): Promise<void>;
  /** Ends it, and removes its folder. */
  stop(): Promise<void>;
}

/** Starts what `npm start` starts, in a folder of its own and on a free port. */
export async function startSystem(env: Record<string, string> = {}): Promise<System> {
  const folder = await mkdtemp(join(await fastFolder(), 'landfall-test-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  await chmod(folder, 0o711);
  const dataDir = join(folder, 'data');
  const child = spawn(process.execPath, [resolve('dist/server/standalone/supervisor.js')], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '', DATA_DIR: dataDir, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
  };
  const stop = async () => {
    await end();
    await rm(folder, { recursive: true, force: true });
  };
  const url = await until('the system to start', () => {
    if (child.exitCode !== null) throw new Error(`npm start ended with ${child.exitCode}`);
    return /Page +(\S+)/.exec(output)?.[1];
  }).catch(async (error) => {
    await stop();
    throw error;
  });
  return { url, dataDir, end, stop };
}
