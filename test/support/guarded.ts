import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import type { Readable, Writable } from 'node:stream';

// A shell in between kills the program when its own input ends, so the program ends with the tests, however they end.
const GUARD = 'trap "" INT TERM HUP; "$@" 2>&1 & exec >&-; read -r _; kill -9 $!; wait';

export interface Guarded {
  /** The shell; its stdout is stdout and stderr of the program, and ends with it. */
  shell: ChildProcessByStdio<Writable, Readable, null>;
  /** SIGKILL, at once. */
  kill(): Promise<void>;
}

/** Starts a program that does not outlive the tests. */
export function startGuarded(program: string, args: string[], env: NodeJS.ProcessEnv = process.env): Guarded {
  const shell = spawn('sh', ['-c', GUARD, 'sh', program, ...args], {
    cwd: tmpdir(),
    env,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(shell, 'exit');
  return {
    shell,
    async kill() {
      shell.stdin.end();
      await ended;
    },
  };
}
