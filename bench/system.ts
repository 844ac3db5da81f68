import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;

/** Below 1 the benches of S3 are smaller, only to see that they work: their numbers then mean nothing. */
export const SCALE = Number(process.env.BENCH_SCALE ?? 1);

/** A process that is measured. */
export interface Measured {
  pid: number;
  url: string;
  stop(): Promise<void>;
}

/** Ticks a second in /proc/<pid>/stat; 100 on every Linux that Node runs on. */
const TICKS = 100;

/** The benches do more than the rate limits allow a user. */
const WITHOUT_LIMITS = Object.fromEntries(
  ['UPLOADS', 'STATUS', 'DOWNLOADS', 'PROCESSING', 'AUTH', 'GLOBAL'].map((name) => [
    `RATE_LIMIT_${name}`,
    '0',
  ]),
);

/**
 * Starts a script of dist/ and waits until its output names its address.
 * @param ready what to wait for in its output instead, of a script that has no address
 */
export async function startScript(
  path: string,
  env: Record<string, string>,
  ready = /http:\/\/localhost:\d+/,
): Promise<Measured> {
  const script = fileURLToPath(new URL(path, import.meta.url));
  const child = spawn(process.execPath, [script], {
    env: { ...process.env, ...WITHOUT_LIMITS, PORT: '0', ...env },
    // Over the IPC channel the script notices when the bench dies, and ends too.
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  let output = '';
  const found = await new Promise<string>((resolve, reject) => {
    child.stdout?.on('data', (chunk) => {
      output += chunk;
      const [text] = ready.exec(output) ?? [];
      if (text) resolve(text);
    });
    child.once('exit', (code) => reject(new Error(`${path} ended with ${code}`)));
  });
  // Go on reading its output, or the script would block on a full pipe.
  child.stdout?.removeAllListeners('data').resume();
  return {
    pid: child.pid ?? 0,
    url: found.replace('localhost', '127.0.0.1'),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Starts all of Landfall in a folder of its own, as `npm start` does. `pid` is the server's. */
export async function startLandfall(): Promise<Measured & { token: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'landfall-bench-'));
  // As root PostgreSQL runs as another user, who must be able to pass.
  chmodSync(folder, 0o711);
  const system = await startScript('../server/standalone/supervisor.js', { DATA_DIR: join(folder, 'data') });
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
export async function register(url: string): Promise<string> {
  const answer = await fetch(`${url}/api/auth/register`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ email: 'bench@example.org', password: 'only for the bench' }),
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

/** CPU seconds that a process has used. */
export function cpuSeconds(pid: number): number {
  // Behind the name in brackets: state is field 3, utime and stime are 14 and 15.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

/** Largest resident memory since the start or `resetPeakMemory`, in bytes. */
export function peakMemory(pid: number): number {
  const [, kib] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

export function resetPeakMemory(pid: number): void {
  // "To reset the peak resident set size" (proc_pid_clear_refs(5)).
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

export function median(numbers: number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}
