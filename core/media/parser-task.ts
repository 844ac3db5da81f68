import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { addAbortSignal, type Readable, type Writable } from 'node:stream';
import { AppError } from '../errors.js';
import { BYTES_FD, type ParserAnswer, type ParserTask, TOO_MUCH_MEMORY } from './parser-protocol.js';
import { heldBytes } from './task-input.js';

/** Where the bytes of a task come from. */
export interface TaskSource {
  /** Bytes of the whole object. */
  size: number;
  /** Bytes that the task needs; undefined: all. */
  sent?: number;
  /** Opens the object, or only its first `count` bytes. Called with `sent` or `size` at most. */
  read(count: number): Promise<Readable>;
}

/** The limits of a task. */
export interface TaskLimits {
  /** Bytes of resident memory. */
  memory: number;
  /** Time limit of one task, counted from its last byte. */
  timeoutSeconds: number;
}

const MIB = 1024 ** 2;

/**
 * Time limit without a byte from the store or to the parser. Longer than a read of the store goes on trying; see
 * object-reader.ts.
 */
const STALL_MS = 60_000;

/**
 * Gives a task to a process. Ends with its answer, the end of the process, a time limit or the abort signal. A process
 * that was given the task and has not answered is killed.
 * @param source undefined: the process works on the content that it holds
 * @throws {AppError} unavailable, took_too_long, too_much_memory, parser_died; the signal's reason
 */
export async function ask(
  child: ChildProcess,
  { name, options }: Pick<ParserTask, 'name' | 'options'>,
  source: TaskSource | undefined,
  signal: AbortSignal,
  { memory, timeoutSeconds }: TaskLimits,
): Promise<ParserAnswer> {
  signal.throwIfAborted();
  const over = new AbortController();
  return new Promise<ParserAnswer>((resolve, reject) => {
    let given = false;
    const giveUp = (error: unknown) => {
      // SIGKILL, because running native code handles no other signal. The pool starts another process.
      if (given) child.kill('SIGKILL');
      reject(error);
    };
    // While bytes are sent, only a stall ends the task. Its time limit begins after the last byte.
    const stalled = setTimeout(() => giveUp(unavailable()), STALL_MS);
    const beginTask = () => {
      clearTimeout(stalled);
      const late = new AppError('took_too_long', { detail: `More than ${timeoutSeconds} s` });
      const timer = setTimeout(() => giveUp(late), timeoutSeconds * 1000);
      over.signal.addEventListener('abort', () => clearTimeout(timer));
    };
    const onMessage = (answer: ParserAnswer) => resolve(answer);
    const onExit = (_code: number | null, killedBy: NodeJS.Signals | null) =>
      reject(deathOf(killedBy, memory));
    const onAbort = () => giveUp(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    child.once('message', onMessage).once('exit', onExit);
    over.signal.addEventListener('abort', () => {
      clearTimeout(stalled);
      signal.removeEventListener('abort', onAbort);
      child.off('message', onMessage).off('exit', onExit);
    });

    const send = (task: ParserTask) => {
      given = true;
      child.send(task, (error) => {
        if (error) giveUp(new AppError('parser_died', { cause: error, retryable: true }));
      });
    };
    if (!source) {
      send({ name, options });
      beginTask();
      return;
    }
    const sent = Math.min(source.sent ?? source.size, heldBytes({ memory }));
    const deliver = async (bytes: Readable) => {
      send({ name, options, content: { size: source.size, sent } });
      await sendBytes(bytes, sent, child.stdio[BYTES_FD] as Writable, over.signal, () => stalled.refresh());
      if (!over.signal.aborted) beginTask();
    };
    source.read(sent).then((bytes) => {
      if (over.signal.aborted) bytes.destroy();
      else deliver(bytes).catch((error: unknown) => over.signal.aborted || giveUp(unavailable(error)));
    }, reject);
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
