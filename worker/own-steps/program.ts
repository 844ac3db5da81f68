import { type ChildProcess, spawn } from 'node:child_process';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { AppError } from '../../core/errors.js';
import { NO_NETWORK, workingWrappers } from '../../core/media/sandbox.js';
import { cleanLine } from '../../core/own-steps/answer.js';
import { memoryOfGroup, signalGroup } from './process-group.js';

/*
 * Runs a program of the operator's within limits. It has the rights of the worker, but not its environment. It may not harm
 * the worker or other steps: it is ended when it takes too long, takes too much memory or writes too much, together with all
 * processes of its group. On Linux the kernel helps, where the machine has the tools of util-linux: the program dies with the
 * worker, no file may grow beyond the limit, and no process may suddenly take twice the memory.
 */

interface ProgramLimits {
  timeoutSeconds: number;
  /** Bytes of resident memory of all processes together. */
  memory: number;
  /** Bytes that the program may write into its folder. */
  outputBytes: number;
}

export interface Program {
  command: readonly string[];
  /** The whole environment. */
  environment: Readonly<Record<string, string>>;
  /** The folder that it may fill. */
  folder: string;
  limits: ProgramLimits;
  /** Whether it may use the network; false counts only where the machine can forbid it. */
  network: boolean;
  /** The program is one of ours and speaks with us: what it is told first, and what is done with its messages. */
  dialogue?: { first: object; onMessage: (message: unknown) => void };
}

/** How a program ended by itself. */
export interface Ended {
  code: number | null;
  /** The signal that killed it. */
  killedBy: NodeJS.Signals | null;
  /** The beginning of what it wrote; whether that is all. */
  stdout: { text: string; isAll: boolean };
  /** The end of what it wrote. */
  stderr: string;
}

/** Characters that are kept of each. */
const MAX_STDOUT = 256 * 1024;
const MAX_STDERR = 8 * 1024;

/** From SIGTERM to SIGKILL. */
const GRACE_MS = 1_000;

/** How often memory and written bytes are looked at. */
const WATCH_MS = 500;

/** How long the last output may take after the end of the program. */
const LAST_OUTPUT_MS = 1_000;

const MIB = 1024 ** 2;

let tools: { noNetwork: string[]; others: string[] } | undefined;

/** What this machine can do; blocks while it tries, the first time. */
function findTools(): { noNetwork: string[]; others: string[] } {
  if (!tools) {
    const found = workingWrappers([
      NO_NETWORK,
      ['setpriv', '--pdeathsig', 'KILL', '--'],
      ['prlimit', '--core=0', '--'],
    ]);
    tools = {
      noNetwork: found.find((one) => one === NO_NETWORK) ?? [],
      others: found.filter((one) => one !== NO_NETWORK).flat(),
    };
  }
  return tools;
}

/** Whether this machine can run a program without a network. */
export function canForbidNetwork(): boolean {
  return findTools().noNetwork.length > 0;
}

function wrapped({ command, network, limits }: Program): [tool: string, ...args: string[]] {
  const { noNetwork, others } = findTools();
  const kernelLimits = [`--data=${2 * limits.memory}`, `--fsize=${limits.outputBytes}`, '--core=0'];
  const wrappers = others.flatMap((arg) => (arg === '--core=0' ? kernelLimits : arg));
  const [tool = '', ...args] = [...(network ? [] : noNetwork), ...wrappers, ...command];
  return [tool, ...args];
}

/**
 * Runs a program until it ends, and then ends what it has left behind.
 * @param signal ends the program
 * @throws {AppError} took_too_long, too_much_memory, step_failed (it cannot be started, or has written too much); the signal's
 * reason
 */
export async function runProgram(program: Program, signal: AbortSignal): Promise<Ended> {
  const { folder, limits, dialogue } = program;
  const [tool, ...args] = wrapped(program);
  const before = await bytesIn(folder);
  signal.throwIfAborted();
  const child = spawn(tool, args, {
    cwd: folder,
    env: program.environment,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', ...(dialogue ? (['ipc'] as const) : [])],
  });
  const stdout = keepBeginning(child.stdout);
  const stderr = keepEnd(child.stderr);
  const stop = createStop(child);
  const onAbort = () => stop.because(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  const late = new AppError('took_too_long', { detail: `More than ${limits.timeoutSeconds} s` });
  const timer = setTimeout(() => stop.because(late), limits.timeoutSeconds * 1000);
  const endWatch = watch(child, limits, async () => (await bytesIn(folder)) - before, stop.because);
  try {
    if (dialogue) speak(child, dialogue);
    const { code, killedBy } = await endOf(child);
    stop.rest();
    await outputEnded(child);
    if (stop.reason !== undefined) throw stop.reason;
    // The last bytes may have come after the last look.
    if ((await bytesIn(folder)) - before > limits.outputBytes || killedBy === 'SIGXFSZ')
      throw tooMuchWritten(limits);
    return { code, killedBy, stdout: stdout(), stderr: stderr() };
  } finally {
    clearTimeout(timer);
    endWatch();
    stop.rest();
    signal.removeEventListener('abort', onAbort);
  }
}

/** The last line that a program has written to stderr, for the owner of a file: it tells no path. */
export function lastLine(stderr: string): string {
  const line = stderr.trimEnd().split(/\r|\n/).at(-1) ?? '';
  return cleanLine(
    line.replaceAll(/file:\/\/\S+/g, '…').replaceAll(/(?<![\w:/.])\.{0,2}\/[^\s'":,;()<>]+/g, '…'),
  );
}

function createStop(child: ChildProcess) {
  let kill: NodeJS.Timeout | undefined;
  const stop = {
    reason: undefined as unknown,
    /** Ends the program; the first reason counts. */
    because(reason: unknown): void {
      if (stop.reason !== undefined || child.pid === undefined) return;
      const { pid } = child;
      stop.reason = reason;
      signalGroup(pid, 'SIGTERM');
      kill = setTimeout(() => signalGroup(pid, 'SIGKILL'), GRACE_MS);
    },
    /** Ends what the program has left behind. */
    rest(): void {
      clearTimeout(kill);
      if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL');
    },
  };
  return stop;
}

function endOf(child: ChildProcess): Promise<{ code: number | null; killedBy: NodeJS.Signals | null }> {
  return new Promise((resolve, reject) => {
    child.once('error', (cause) => {
      const detail = 'The program cannot be started';
      reject(new AppError('step_failed', { detail, cause, retryable: true }));
    });
    child.once('exit', (code, killedBy) => resolve({ code, killedBy }));
  });
}

/** A process that has left the group may hold the pipes open. */
async function outputEnded({ stdout, stderr }: ChildProcess): Promise<void> {
  await new Promise<void>((resolve) => {
    let open = 2;
    const timer = setTimeout(resolve, LAST_OUTPUT_MS);
    for (const pipe of [stdout, stderr]) {
      const close = () => {
        if (--open > 0) return;
        clearTimeout(timer);
        resolve();
      };
      if (!pipe || pipe.closed) close();
      else pipe.once('close', close);
    }
  });
  stdout?.destroy();
  stderr?.destroy();
}

function watch(
  child: ChildProcess,
  limits: ProgramLimits,
  written: () => Promise<number>,
  stop: (reason: AppError) => void,
): () => void {
  let looking = false;
  const timer = setInterval(async () => {
    if (looking || child.pid === undefined) return;
    looking = true;
    if (memoryOfGroup(child.pid) > limits.memory) {
      stop(new AppError('too_much_memory', { detail: `More than ${Math.round(limits.memory / MIB)} MiB` }));
    } else if ((await written()) > limits.outputBytes) stop(tooMuchWritten(limits));
    looking = false;
  }, WATCH_MS);
  return () => clearInterval(timer);
}

function tooMuchWritten({ outputBytes }: ProgramLimits): AppError {
  return new AppError('step_failed', { detail: `The program wrote more than ${outputBytes} bytes` });
}

/** Bytes of all files below a folder. A file that is deleted meanwhile does not count. */
async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  let sum = 0;
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    sum += (await lstat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0;
  }
  return sum;
}

function speak(child: ChildProcess, { first, onMessage }: NonNullable<Program['dialogue']>): void {
  child.on('message', onMessage);
  // An error means that the process has ended.
  child.send(first, () => {});
}

function keepBeginning(stream: Readable | null): () => Ended['stdout'] {
  let text = '';
  let isAll = true;
  stream?.setEncoding('utf8').on('data', (chunk: string) => {
    isAll &&= text.length + chunk.length <= MAX_STDOUT;
    text += chunk.slice(0, MAX_STDOUT - text.length);
  });
  return () => ({ text, isAll });
}

function keepEnd(stream: Readable | null): () => string {
  let text = '';
  stream?.setEncoding('utf8').on('data', (chunk: string) => {
    text = (text + chunk).slice(-MAX_STDERR);
  });
  return () => text;
}
