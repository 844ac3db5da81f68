import { AppError } from '../errors.js';

/** The input of a task, and the limits that it must keep. */
export interface TaskInput {
  /** The object, or its first bytes if it is larger than a parser may hold. */
  bytes: Buffer;
  /** Bytes of the whole object. */
  size: number;
  limits: ParserLimits;
}

/** Limits that the parser process enforces itself; its parent enforces the time limit. */
export interface ParserLimits {
  maxImagePixels: number;
  /** Bytes of resident memory. */
  memory: number;
}

/** How many bytes of an object a parser may hold: decoding takes more than the bytes themselves. */
export function heldBytes({ memory }: Pick<ParserLimits, 'memory'>): number {
  return Math.floor(memory / 2);
}

/**
 * How many bytes a decoder in WebAssembly may take. It runs in the thread that watches the memory, so that thread cannot
 * stop it.
 */
export function wasmBytes({ memory }: Pick<ParserLimits, 'memory'>): number {
  return Math.floor(memory * 0.7);
}

/** The error of a task that needs more than the first `held` bytes of the object. */
export function tooLarge(size: number, held: number): AppError {
  return new AppError('too_much_memory', { detail: `${size} bytes; at most ${held} are read into memory` });
}
