import { detectType } from './detect.js';
import { readMetadata } from './metadata.js';
import type { ParserLimits } from './parser-protocol.js';
import { makeThumbnails } from './thumbnails.js';

/** What a task works on, and the limits that it keeps. */
export interface TaskInput {
  /** The object, or its first bytes if it is larger than a parser may hold. */
  bytes: Buffer;
  /** Bytes of the whole object. */
  size: number;
  limits: ParserLimits;
}

/**
 * All that a parser process can do. Imported by parser processes only, because it loads the decoders; others import
 * its types. A task throws an AppError with what is wrong with the content; any other error is told as `unreadable`.
 */
export const TASKS = {
  metadata: readMetadata,
  thumbnails: makeThumbnails,
  type: detectType,
} satisfies Record<string, (input: TaskInput) => unknown>;

export type TaskName = keyof typeof TASKS;

export type TaskResult<Name extends TaskName> = Awaited<ReturnType<(typeof TASKS)[Name]>>;
