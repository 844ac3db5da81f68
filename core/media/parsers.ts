import type { ChildProcess } from 'node:child_process';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import { isAlive, startPool } from './parser-pool.js';
import { FORGET, NEEDS_ALL, type ParserTask } from './parser-protocol.js';
import { ask, type TaskLimits, type TaskSource } from './parser-task.js';
import { heldBytes, type ParserLimits, tooLarge } from './task-input.js';
import type { TaskName, TaskOptions, TaskResult } from './tasks.js';

/** Decodes files in separate processes; see parser-process.ts. */
export interface Parsers {
  /** Runs one task of tasks.ts on this content; errors as in ParserSession. */
  run<Name extends TaskName>(
    name: Name,
    source: TaskSource,
    signal: AbortSignal,
    ...options: TaskOptions<Name>
  ): Promise<TaskResult<Name>>;
  /**
   * Prepares several tasks on the same content. Reads nothing and takes no process before the first task.
   * @param signal ends waiting, reading and decoding when it aborts
   */
  open(source: TaskSource, signal: AbortSignal): ParserSession;
  close(): void;
}

/**
 * Several tasks on the same content, one after the other. One process keeps the bytes from the first task to `close`, so
 * that they are read from the store once. When that process dies, the next task reads them again.
 */
export interface ParserSession {
  /**
   * @throws {AppError} unreadable, unavailable, took_too_long, too_much_memory, parser_died; the task's own AppErrors; the
   * signal's reason
   */
  run<Name extends TaskName>(name: Name, ...options: TaskOptions<Name>): Promise<TaskResult<Name>>;
  /** Makes the process free for others. */
  close(): void;
}

export interface ParserOptions extends ParserLimits, TaskLimits {
  /** How many processes at most. */
  count: number;
  log: Logger;
}

/**
 * Starts one parser process, and further ones when a task finds none free. Each works on one content at a time; when there
 * are `count` of them, further contents wait.
 */
export function startParsers(options: ParserOptions): Parsers {
  const pool = startPool(options.count, options, options.log);
  const held = heldBytes(options);

  function open(source: TaskSource, signal: AbortSignal): ParserSession {
    /** The process that holds the content. */
    let holder: ChildProcess | undefined;

    async function askHolder(task: Pick<ParserTask, 'name' | 'options'>) {
      if (holder && isAlive(holder)) return ask(holder, task, undefined, signal, options);
      // Detecting a type takes milliseconds, so it does not wait behind decoding tasks.
      const child = await pool.take(signal, task.name === 'type');
      try {
        const answer = await ask(child, task, source, signal, options);
        holder = child;
        return answer;
      } finally {
        if (holder !== child) pool.putBack(child);
      }
    }

    async function run(name: TaskName, taskOptions: unknown): Promise<unknown> {
      if (NEEDS_ALL.has(name) && source.size > held) throw tooLarge(source.size, held);
      const answer = await askHolder({ name, options: taskOptions });
      if (!answer.ok) throw new AppError(answer.code, { detail: answer.detail });
      return answer.result;
    }

    return {
      run: <Name extends TaskName>(name: Name, ...[taskOptions]: TaskOptions<Name>) =>
        run(name, taskOptions) as Promise<TaskResult<Name>>,
      close() {
        if (!holder) return;
        // An error means that the process has ended.
        if (isAlive(holder)) holder.send(FORGET, () => {});
        pool.putBack(holder);
        holder = undefined;
      },
    };
  }

  return {
    run(name, source, signal, ...taskOptions) {
      const session = open(source, signal);
      return session.run(name, ...taskOptions).finally(() => session.close());
    },
    open,
    close: pool.close,
  };
}
