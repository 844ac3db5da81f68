import type { ErrorCode } from '../errors.js';
import type { TaskName } from './tasks.js';

/**
 * A task for a parser process, sent over IPC with the `advanced` serialisation. Its bytes follow through the pipe at
 * BYTES_FD.
 */
export interface ParserTask {
  name: TaskName;
  /** Bytes of the object. */
  size: number;
  /** Bytes that follow: all, or only the first ones of an object that is larger than a parser may hold. */
  sent: number;
}

export type ParserAnswer = { ok: true; result: unknown } | { ok: false; code: ErrorCode; detail: string };

/** Limits that the parser process enforces itself; its parent enforces the time limit. */
export interface ParserLimits {
  maxImagePixels: number;
  /** Bytes of resident memory. */
  memory: number;
}

/** The descriptor from which a parser process reads the bytes; 3 is the IPC channel. */
export const BYTES_FD = 4;

/** The signal by which a parser process ends itself when it exceeds its memory limit. */
export const TOO_MUCH_MEMORY = 'SIGUSR2';
