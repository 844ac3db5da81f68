import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/* Starts the programs that are measured, and stops them. */

/** A process that is measured. */
export interface Measured {
  pid: number;
  url: string;
  stop(): Promise<void>;
}

/** The benches do more than the rate limits allow a user. */
const WITHOUT_LIMITS = Object.fromEntries(
  ['UPLOADS', 'STATUS', 'DOWNLOADS', 'PROCESSING', 'AUTH', 'GLOBAL'].map((name) => [
    `RATE_LIMIT_${name}`,
    '0',
  ]),
);

/**
 * Starts a script of dist/ and waits until its output names its address.
 * @param path relative to the compiled bench
 * @param ready instead of an address, the text to wait for in the output of a script that has none
 * @param options of Node
 */
export function startScript(
  path: string,
  env: Record<string, string>,
  ready = /http:\/\/localhost:\d+/,
  options: string[] = [],
): Promise<Measured> {
  const script = fileURLToPath(new URL(path, import.meta.url));
  return startProgram(
    process.execPath,
    [...options, script],
    { ...WITHOUT_LIMITS, PORT: '0', ...env },
    ready,
  );
}

/**
 * Starts a program and waits until its output matches `ready`. The match, or its first group if it has one, is the URL.
 * @throws when the program ends before that
 */
export async function startProgram(
  command: string,
  arguments_: string[],
  env: Record<string, string>,
  ready: RegExp,
): Promise<Measured> {
  const child = spawn(command, arguments_, {
    env: { ...process.env, ...env },
    // Over the IPC channel a script notices when the bench dies, and ends too.
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  // Other programs ignore the channel, so the bench ends them.
  const kill = () => child.kill();
  process.once('exit', kill);
  let output = '';
  const found = await new Promise<string>((resolve, reject) => {
    child.stdout?.on('data', (chunk) => {
      output += chunk;
      const match = ready.exec(output);
      if (match) resolve(match[1] ?? match[0]);
    });
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`${command} ${arguments_[0]} ended with ${code}`)));
  }).catch((error) => {
    process.off('exit', kill);
    throw error;
  });
  // Go on reading its output, or the program would block on a full pipe.
  child.stdout?.removeAllListeners('data').resume();
  return {
    pid: child.pid ?? 0,
    url: found.replace('localhost', '127.0.0.1'),
    async stop() {
      process.off('exit', kill);
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}
