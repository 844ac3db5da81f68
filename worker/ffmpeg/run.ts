import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Readable } from 'node:stream';
import { AppError } from '../../core/errors.js';
import { readFfmpegVersion } from '../../core/media/library-versions.js';
import { ENVIRONMENT, openProgramSandbox } from '../../core/media/sandbox.js';
import type { WorkFolder } from '../work-folders.js';

/*
 * Runs ffmpeg and ffprobe, which decode hostile files, as restricted processes (sandbox.ts) in a work folder. They are given
 * the container's format, so that nothing that looks like a playlist can name other files or addresses.
 */

/** Bytes of address space that the libraries of ffmpeg take. */
const LIBRARIES = 512 * 1024 ** 2;

/** Threads of one run. More would gain little: several files are processed at the same time. */
export const THREADS = 2;

/** What every command line of ffmpeg begins with. */
export const GLOBAL_ARGS = [
  ...['-nostdin', '-hide_banner', '-v', 'error', '-filter_threads', String(THREADS)],
];

/** Bytes of a file that ffmpeg writes. */
const MAX_FILE = 16 * 1024 ** 2;

/** Characters of a program's messages that are kept. */
const MAX_MESSAGES = 2000;

export interface FfmpegOptions {
  /** Bytes of memory that one run may take besides its libraries. */
  memory: number;
  /** Time limit of one run. */
  timeoutSeconds: number;
}

interface Run {
  program: 'ffmpeg' | 'ffprobe';
  args: string[];
  /** Is the working directory, so that the content is `file:content`. */
  folder: WorkFolder;
  signal: AbortSignal;
}

export interface Ffmpeg {
  version: string;
  /** The user who must own the work folders; see sandbox.ts. */
  owner: number | undefined;
  /**
   * Runs one of the programs and returns what it writes to its standard output.
   * @param maxOutput bytes
   * @throws {AppError} unreadable, took_too_long, too_much_memory; the signal's reason
   */
  read(run: Run, maxOutput: number): Promise<Buffer>;
  /** Gives each piece of the standard output to `onOutput`; otherwise as read(). */
  stream(run: Run, onOutput: (bytes: Buffer) => void): Promise<void>;
}

/** @returns undefined: ffmpeg and ffprobe are not on the PATH, or do not run here */
export async function openFfmpeg({ memory, timeoutSeconds }: FfmpegOptions): Promise<Ffmpeg | undefined> {
  const paths = { ffmpeg: findOnPath('ffmpeg'), ffprobe: findOnPath('ffprobe') };
  const { ffmpeg, ffprobe } = paths;
  if (!ffmpeg || !ffprobe) return undefined;
  const limits = { memory: memory + LIBRARIES, cpuSeconds: timeoutSeconds * THREADS, fileSize: MAX_FILE };
  const { wrappers, owner } = openProgramSandbox(limits);
  const version = await Promise.all(
    [ffmpeg, ffprobe].map((path) => readFfmpegVersion([...wrappers, path], ENVIRONMENT)),
  ).catch(() => undefined);
  if (!version?.[0]) return undefined;

  async function stream({ program, args, folder, signal }: Run, onOutput: (bytes: Buffer) => void) {
    signal.throwIfAborted();
    const [command = '', ...rest] = [
      ...wrappers,
      program === 'ffmpeg' ? ffmpeg : ffprobe,
      ...args,
    ] as string[];
    const child = spawn(command, rest, {
      cwd: folder.path,
      // Less address space for the memory of threads.
      env: { ...ENVIRONMENT, MALLOC_ARENA_MAX: '2' },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A process group of its own, which can be killed as a whole.
      detached: true,
    });
    await attend(child, onOutput, signal, timeoutSeconds);
  }

  return {
    version: version[0],
    owner,
    stream,
    async read(run, maxOutput) {
      const chunks: Buffer[] = [];
      let size = 0;
      await stream(run, (bytes) => {
        size += bytes.length;
        if (size > maxOutput) throw unreadable(`the result has more than ${maxOutput} bytes`);
        chunks.push(bytes);
      });
      return Buffer.concat(chunks);
    },
  };
}

/** Waits for the end of a program, and ends it when it takes too long, when `onOutput` throws or when the signal aborts. */
function attend(
  child: ChildProcessByStdio<null, Readable, Readable>,
  onOutput: (bytes: Buffer) => void,
  signal: AbortSignal,
  timeoutSeconds: number,
): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    let messages = '';
    /** Why it was ended here. */
    let ended: { reason: unknown } | undefined;
    const end = (reason: unknown) => {
      ended ??= { reason };
      if (child.pid !== undefined) killGroup(child.pid);
      // A process that has left the group may hold the other ends: do not wait for it.
      child.stdout?.destroy();
      child.stderr?.destroy();
    };
    const onAbort = () => end(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    const late = new AppError('took_too_long', { detail: `More than ${timeoutSeconds} s` });
    const timer = setTimeout(() => end(late), timeoutSeconds * 1000);
    // There are no pipes if no descriptors are left; `error` follows then.
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      messages = (messages + text).slice(0, MAX_MESSAGES);
    });
    child.stdout?.on('data', (bytes: Buffer) => {
      if (ended) return;
      try {
        onOutput(bytes);
      } catch (error) {
        end(error);
      }
    });
    const settle = (conclude: () => void) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      conclude();
    };
    // It could not be started.
    child.once('error', (error) => settle(() => reject(error)));
    child.once('close', (code, killedBy) =>
      settle(() => {
        if (ended) reject(ended.reason);
        else if (code === 0) resolve();
        else reject(failureOf(killedBy, messages, timeoutSeconds));
      }),
    );
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

function failureOf(killedBy: NodeJS.Signals | null, messages: string, timeoutSeconds: number): AppError {
  if (/cannot allocate memory|malloc of size/i.test(messages)) return new AppError('too_much_memory');
  if (killedBy === 'SIGXCPU' || killedBy === 'SIGKILL') {
    return new AppError('took_too_long', { detail: `More than ${timeoutSeconds} s of processor time` });
  }
  if (killedBy) return unreadable(`ffmpeg crashed (${killedBy})`);
  return unreadable(reasonOf(messages));
}

export function unreadable(reason: string): AppError {
  return new AppError('unreadable', { detail: `The content cannot be decoded: ${reason}` });
}

/** The first line of ffmpeg's messages, such as `[mov,mp4 @ 0x55d0] moov atom not found`, without the address. */
function reasonOf(messages: string): string {
  const [line = ''] = messages.split('\n').filter((text) => text.trim() !== '');
  const bare = line.replace(/^(\[[^\]]*\]\s*)+/, '').replace(/[^\x20-\x7e]/g, '?');
  return bare.slice(0, 200) || 'ffmpeg does not say why';
}

function findOnPath(name: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}
