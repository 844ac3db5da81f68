import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { addAbortSignal, type Readable, type Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import {
  BYTES_FD,
  type ParserAnswer,
  type ParserLimits,
  type ParserTask,
  TOO_MUCH_MEMORY,
} from './parser-protocol.js';
import { ENVIRONMENT, sandboxedNode } from './sandbox.js';
import type { TaskName, TaskResult } from './tasks.js';

/** Decodes files in separate processes; see parser-process.ts. */
export interface Parsers {
  /**
   * Runs a task of tasks.ts.
   * @throws {AppError} unreadable, unavailable, took_too_long, too_much_memory, parser_died; the task's own AppErrors
   */
  run<Name extends TaskName>(name: Name, source: ByteSource, signal: AbortSignal): Promise<TaskResult<Name>>;
  close(): void;
}

/** Where the bytes of a task come from. */
export interface ByteSource {
  /** Bytes of the whole object. */
  size: number;
  /** Bytes that the task needs; undefined: all. */
  sent?: number;
  /** Opens the object, or only its first `count` bytes. Called with `sent` or `size` at most. */
  read(count: number): Promise<Readable>;
}

export interface ParserOptions extends ParserLimits {
  /** How many processes. */
  count: number;
  /** Time limit of one task, counted from its last byte. */
  timeoutSeconds: number;
  log: Logger;
}

const MIB = 1024 ** 2;

/** Pause before a new process starts. Without it, a process that cannot start would be restarted constantly. */
const RESPAWN_MS = 100;

/** Time limit without a byte from the store or to the parser. The file is not at fault when the store is slow. */
const STALL_MS = 20_000;

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
      // A process that could not be started emits only `error`; a process that ends emits `exit`.
      if (!all.delete(child)) return;
      const index = free.indexOf(child);
      if (index >= 0) free.splice(index, 1);
      if (closed) return;
      options.log.warn(reason, 'a parser process ended; starting another');
      setTimeout(() => closed || spawn(), RESPAWN_MS);
    };
    child.once('error', (err) => replace({ err }));
    child.once('exit', (code, killedBy) => replace({ code, killedBy }));
    // Wait until the process is up: its start time on a busy machine must not count as time of the task.
    child.once('message', () => putBack(child));
  }

  function putBack(child: ChildProcess): void {
    if (!all.has(child) || child.killed || child.exitCode !== null || child.signalCode !== null) return;
    const next = waiting.shift();
    if (next) next(child);
    else free.push(child);
  }

  function take(name: TaskName): Promise<ChildProcess> {
    const child = free.pop();
    if (child) return Promise.resolve(child);
    // Detecting a type takes milliseconds, so it does not wait behind decoding tasks.
    return new Promise((resolve) => (name === 'type' ? waiting.unshift(resolve) : waiting.push(resolve)));
  }

  async function run(name: TaskName, source: ByteSource, signal: AbortSignal): Promise<unknown> {
    const child = await take(name);
    const answer = await ask(child, name, source, signal, options).finally(() => putBack(child));
    if (!answer.ok) throw new AppError(answer.code, { detail: answer.detail });
    return answer.result;
  }

  for (let i = 0; i < options.count; i++) spawn();
  return {
    run: <Name extends TaskName>(name: Name, source: ByteSource, signal: AbortSignal) =>
      run(name, source, signal) as Promise<TaskResult<Name>>,
    close() {
      closed = true;
      for (const child of all) child.kill('SIGKILL');
    },
  };
}

function forkParser({ maxImagePixels, memory }: ParserLimits): ChildProcess {
  const limits: ParserLimits = { maxImagePixels, memory };
  const child = fork(
    fileURLToPath(new URL('./parser-process.js', import.meta.url)),
    [JSON.stringify(limits)],
    {
      ...sandboxedNode(),
      cwd: '/',
      env: ENVIRONMENT,
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc', 'pipe'],
    },
  );
  // Errors of the pipe are ignored: `exit` reports a process that ends while bytes are sent to it.
  child.stdio[BYTES_FD]?.on('error', () => {});
  return child;
}

/** Gives a task to a process. Ends with its answer, the end of the process, a time limit or the abort signal. */
async function ask(
  child: ChildProcess,
  name: TaskName,
  source: ByteSource,
  signal: AbortSignal,
  { memory, timeoutSeconds }: ParserOptions,
): Promise<ParserAnswer> {
  // The signal may have aborted while the task waited for a free process.
  signal.throwIfAborted();
  const over = new AbortController();
  return new Promise<ParserAnswer>((resolve, reject) => {
    const kill = (error: unknown) => {
      // SIGKILL, because running native code handles no other signal. The pool starts another process.
      child.kill('SIGKILL');
      reject(error);
    };
    // While bytes are sent, only a stall ends the task. Its time limit begins after the last byte.
    const stalled = setTimeout(() => kill(unavailable()), STALL_MS);
    const beginTask = () => {
      clearTimeout(stalled);
      const late = new AppError('took_too_long', { detail: `More than ${timeoutSeconds} s` });
      const timer = setTimeout(() => kill(late), timeoutSeconds * 1000);
      over.signal.addEventListener('abort', () => clearTimeout(timer));
    };
    const onMessage = (answer: ParserAnswer) => resolve(answer);
    const onExit = (_code: number | null, killedBy: NodeJS.Signals | null) =>
      reject(deathOf(killedBy, memory));
    const onAbort = () => kill(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    child.once('message', onMessage).once('exit', onExit);
    over.signal.addEventListener('abort', () => {
      clearTimeout(stalled);
      signal.removeEventListener('abort', onAbort);
      child.off('message', onMessage).off('exit', onExit);
    });

    // Decoding takes more than the bytes themselves.
    const sent = Math.min(source.sent ?? source.size, Math.floor(memory / 2));
    const deliver = async (bytes: Readable) => {
      const task: ParserTask = { name, size: source.size, sent };
      child.send(task, (error) => {
        if (error) kill(new AppError('parser_died', { cause: error, retryable: true }));
      });
      await sendBytes(bytes, sent, child.stdio[BYTES_FD] as Writable, over.signal, () => stalled.refresh());
      if (!over.signal.aborted) beginTask();
    };
    source.read(sent).then(
      (bytes) => {
        if (over.signal.aborted) bytes.destroy();
        else deliver(bytes).catch((error: unknown) => over.signal.aborted || kill(unavailable(error)));
      },
      // The process has not received the task, so it can be used again.
      reject,
    );
  }).finally(() => over.abort());
}

function deathOf(killedBy: NodeJS.Signals | null, memory: number): AppError {
  return killedBy === TOO_MUCH_MEMORY
    ? new AppError('too_much_memory', { detail: `More than ${Math.round(memory / MIB)} MiB` })
    : new AppError('parser_died', { retryable: true });
}

/** Sends exactly `size` bytes, as fast as the parser reads them. @throws when there are fewer, or on abort */
async function sendBytes(
  bytes: Readable,
  size: number,
  pipe: Writable,
  signal: AbortSignal,
  onProgress: () => void,
): Promise<void> {
  let left = size;
  for await (const chunk of addAbortSignal(signal, bytes)) {
    onProgress();
    const part = chunk.subarray(0, left);
    left -= part.length;
    // Read the stream to its end, so that the store's connection can be reused.
    if (part.length > 0 && !pipe.write(part)) await once(pipe, 'drain', { signal });
  }
  if (left > 0) throw new Error(`${left} of ${size} bytes are missing`);
}

/** A store that is away says nothing about the content. */
function unavailable(cause?: unknown): AppError {
  return new AppError('unavailable', { detail: 'The stored bytes cannot be read', cause, retryable: true });
}
