import type { ErrorCode } from '../errors.js';
import type { TaskName } from './tasks.js';

/*
 * The messages between the pool and a parser process, sent over IPC with the `advanced` serialisation. A task brings
 * content or works on the content of the task before it, so that several tasks need the bytes only once. FORGET ends that.
 */

export interface ParserTask {
  name: TaskName;
  /** Of the task, as tasks.ts declares them. */
  options?: unknown;
  /** Undefined: the same content as that of the task before. */
  content?: ParserContent;
}

/** Its bytes follow through the pipe at BYTES_FD. */
export interface ParserContent {
  /** Bytes of the object. */
  size: number;
  /** Bytes that follow: all, or only the first ones of an object that is larger than a parser may hold. */
  sent: number;
}

/** The process drops the content that it holds. It sends no answer. */
export const FORGET = 'forget';

export type ParserAnswer = { ok: true; result: unknown } | { ok: false; code: ErrorCode; detail: string };

/** The descriptor from which a parser process reads the bytes; 3 is the IPC channel. */
export const BYTES_FD = 4;

/** The signal by which a parser process ends itself when it exceeds its memory limit. */
export const TOO_MUCH_MEMORY = 'SIGUSR2';

/** Tasks that can do nothing with only a part of the object. */
export const NEEDS_ALL: ReadonlySet<TaskName> = new Set<TaskName>(['optimize', 'thumbnails', 'waveform']);
