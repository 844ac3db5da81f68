import { detectType } from './detect.js';
import { describeDocument } from './documents/description.js';
import { readMedia } from './media-facts.js';
import { readMetadata } from './metadata.js';
import { optimizeImage } from './optimize.js';
import { renderImage } from './render.js';
import type { TaskInput } from './task-input.js';
import { makeThumbnails } from './thumbnails.js';
import { readWaveform } from './wav.js';

/**
 * All tasks of a parser process. Only parser processes import this, because it loads the decoders; other code imports its
 * types. A task throws an AppError for a problem of the content; any other error is reported as `unreadable`. A task that
 * needs to be told more than the content takes it as its second parameter: plain data.
 */
export const TASKS = {
  document: describeDocument,
  media: readMedia,
  metadata: readMetadata,
  optimize: optimizeImage,
  render: renderImage,
  thumbnails: makeThumbnails,
  type: detectType,
  waveform: readWaveform,
} satisfies Record<string, (input: TaskInput, options: never) => unknown>;

export type TaskName = keyof typeof TASKS;

/** Further arguments of a task: its options if it has any. */
export type TaskOptions<Name extends TaskName> =
  Parameters<(typeof TASKS)[Name]> extends [TaskInput, infer Options] ? [Options] : [];

export type TaskResult<Name extends TaskName> = Awaited<ReturnType<(typeof TASKS)[Name]>>;
