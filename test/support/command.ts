import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { coverageEnv } from './coverage.js';

/* Runs the built command `landfall` as a user would, with a home of its own. */

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Running {
  child: ChildProcess;
  /** What it has written to stderr so far. */
  remarks(): string;
  ended: Promise<Ended>;
}

export interface Home {
  /** Where the files of the user are; commands run in it. */
  folder: string;
  /** What every command of this home gets, such as LANDFALL_URL. */
  env: Record<string, string>;
  start(args: string[], input?: string): Running;
  run(args: string[], input?: string): Promise<Ended>;
  /** Runs it with --json. @returns the lines of stdout, read, and the exit code */
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows the shape
  json(args: string[]): Promise<{ code: number | null; lines: any[] }>;
  remove(): Promise<void>;
}

export const PROGRAM = resolve('cli/landfall.js');

export async function makeHome(env: Record<string, string>): Promise<Home> {
  const folder = await mkdtemp(join(tmpdir(), 'landfall-home-'));
  const running = new Set<ChildProcess>();
  const home: Home = {
    folder,
    env: {
      PATH: process.env.PATH ?? '',
      HOME: folder,
      ...coverageEnv,
      XDG_CONFIG_HOME: join(folder, 'config'),
      XDG_STATE_HOME: join(folder, 'state'),
      ...env,
    },
    start(args, input = '') {
      const child = spawn(process.execPath, [PROGRAM, ...args], { cwd: folder, env: home.env });
      running.add(child);
      const written = { stdout: '', stderr: '' };
      for (const name of ['stdout', 'stderr'] as const) {
        child[name].setEncoding('utf8').on('data', (chunk) => {
          written[name] += chunk;
        });
      }
      child.stdin.end(input);
      const ended = once(child, 'close').then(([code]) => {
        running.delete(child);
        return { code, ...written };
      });
      return { child, remarks: () => written.stderr, ended };
    },
    run: (args, input) => home.start(args, input).ended,
    async json(args) {
      const { code, stdout } = await home.run([...args, '--json']);
      const lines = stdout.split('\n').filter((line) => line !== '');
      return { code, lines: lines.map((line) => JSON.parse(line)) };
    },
    async remove() {
      for (const child of running) child.kill('SIGKILL');
      await rm(folder, { recursive: true, force: true });
    },
  };
  return home;
}
