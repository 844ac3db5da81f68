import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AppError } from '../core/errors.js';
import type { Logger } from '../core/log.js';
import type { BlobReference } from '../core/storage/storage.js';
import {
  type ParserAnswer,
  type ParserLimits,
  type ParserTask,
  type Thumbnail,
  TOO_MUCH_MEMORY,
} from './parser-protocol.js';

/** Decodes images in processes of their own; see parser-process.ts. */
export interface Parsers {
  /** @throws {AppError} unreadable, unavailable, too_many_pixels, took_too_long, too_much_memory, parser_died */
  readMetadata(source: BlobReference, signal: AbortSignal): Promise<Record<string, unknown>>;
  /** @throws {AppError} as readMetadata */
  makeThumbnails(source: BlobReference, signal: AbortSignal): Promise<Thumbnail[]>;
  close(): void;
}

export interface ParserOptions extends ParserLimits {
  /** How many processes. */
  count: number;
  log: Logger;
}

const MIB = 1024 ** 2;

/** A JavaScript heap larger than this is not needed to read tags. */
const HEAP_MIB = 256;

/** So that a process which cannot even start is not started thousands of times a second. */
const RESPAWN_MS = 100;

/** Starts parser processes. Each does one task at a time; further tasks wait for a free one. */
export function startParsers(options: ParserOptions): Parsers {
  const free: ChildProcess[] = [];
  const waiting: ((child: ChildProcess) => void)[] = [];
  const all = new Set<ChildProcess>();
  let closed = false;

  function spawn(): void {
    const child = forkParser(options);
    all.add(child);
    const replace = (reason: object) => {
      // A process that could not even be started says so with `error` only, one that ends with `exit`.
      if (!all.delete(child)) return;
      const index = free.indexOf(child);
      if (index >= 0) free.splice(index, 1);
      if (closed) return;
      options.log.warn(reason, 'a parser process ended; starting another');
      setTimeout(() => closed || spawn(), RESPAWN_MS);
    };
    child.once('error', (err) => replace({ err }));
    child.once('exit', (code, killedBy) => replace({ code, killedBy }));
    putBack(child);
  }

  function putBack(child: ChildProcess): void {
    if (!all.has(child) || child.killed || child.exitCode !== null || child.signalCode !== null) return;
    const next = waiting.shift();
    if (next) next(child);
    else free.push(child);
  }

  function take(): Promise<ChildProcess> {
    const child = free.pop();
    return child ? Promise.resolve(child) : new Promise((resolve) => waiting.push(resolve));
  }

  async function run(task: ParserTask, signal: AbortSignal): Promise<Record<string, unknown> | Thumbnail[]> {
    const child = await take();
    const answer = await ask(child, task, signal, options).finally(() => putBack(child));
    if (!answer.ok) {
      throw new AppError(answer.code, { detail: answer.detail, retryable: answer.code === 'unavailable' });
    }
    return answer.result;
  }

  for (let i = 0; i < options.count; i++) spawn();
  return {
    readMetadata: async (source, signal) =>
      (await run({ task: 'metadata', source }, signal)) as Record<string, unknown>,
    makeThumbnails: async (source, signal) =>
      (await run({ task: 'thumbnails', source }, signal)) as Thumbnail[],
    close() {
      closed = true;
      for (const child of all) child.kill('SIGKILL');
    },
  };
}

function forkParser({ maxImagePixels, memory, timeoutSeconds }: ParserLimits): ChildProcess {
  const limits: ParserLimits = { maxImagePixels, memory, timeoutSeconds };
  return fork(fileURLToPath(new URL('./parser-process.js', import.meta.url)), [JSON.stringify(limits)], {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    execArgv: [`--max-old-space-size=${HEAP_MIB}`],
  });
}

/** Sends one task and waits for its answer, for the end of the process, for the time limit or for the signal. */
async function ask(
  child: ChildProcess,
  task: ParserTask,
  signal: AbortSignal,
  options: ParserOptions,
): Promise<ParserAnswer> {
  // It may have been given while the task waited for a free process.
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      child.off('message', onMessage).off('exit', onExit);
      finish();
    };
    const kill = (error: unknown) => {
      // SIGKILL, because native code does not see anything else. The pool starts another process.
      child.kill('SIGKILL');
      settle(() => reject(error));
    };
    const onMessage = (answer: ParserAnswer) => settle(() => resolve(answer));
    const onExit = (_code: number | null, killedBy: NodeJS.Signals | null) => {
      const error =
        killedBy === TOO_MUCH_MEMORY
          ? new AppError('too_much_memory', { detail: `More than ${Math.round(options.memory / MIB)} MiB` })
          : new AppError('parser_died', { retryable: true });
      settle(() => reject(error));
    };
    const onAbort = () => kill(signal.reason);
    const timer = setTimeout(
      () => kill(new AppError('took_too_long', { detail: `More than ${options.timeoutSeconds} s` })),
      options.timeoutSeconds * 1000,
    );
    signal.addEventListener('abort', onAbort, { once: true });
    child.on('message', onMessage).on('exit', onExit);
    child.send(task, (error) => {
      if (error) kill(new AppError('parser_died', { cause: error, retryable: true }));
    });
  });
}
