import { detectType } from './detect.js';
import { readMetadata } from './metadata.js';
import type { TaskInput } from './task-input.js';
import { makeThumbnails } from './thumbnails.js';

/**
 * All tasks of a parser process. Only parser processes import this, because it loads the decoders; other code imports its
 * types. A task throws an AppError for a problem of the content; any other error is reported as `unreadable`.
 */
export const TASKS = {
  metadata: readMetadata,
  thumbnails: makeThumbnails,
  type: detectType,
} satisfies Record<string, (input: TaskInput) => unknown>;

export type TaskName = keyof typeof TASKS;

export type TaskResult<Name extends TaskName> = Awaited<ReturnType<(typeof TASKS)[Name]>>;
