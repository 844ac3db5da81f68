import type { Transfer } from './bars.js';
import type { Context } from './context.js';
import { type Failure, toFailure, worstOf } from './failure.js';
import { failureIn, followFile, type KnownStatus, statusText } from './follow.js';
import type { Gate } from './patience.js';
import { keyOf, type Memory, openMemory, tidyMemory, withLock } from './private-files.js';
import { type LocalFile, selectFiles } from './selection.js';
import { printable, sizeText } from './text.js';
import { type SendOptions, sendFile, type UploadNote } from './tus-upload.js';

export interface UploadOptions extends SendOptions {
  /** Files at a time. */
  parallel: number;
  /** Whether to wait until each file is processed. */
  wait: boolean;
}

/** What became of one file: it has an id, or a failure, or both. */
interface Outcome {
  id?: string;
  status?: KnownStatus;
  failure?: Failure | undefined;
}

/**
 * `landfall upload`: uploads files and folders. A note is kept of each upload until all have succeeded. So the same command
 * again sends only what is missing, whatever has ended the one before.
 * @returns the exit code
 */
export async function uploadFiles(
  context: Context,
  paths: string[],
  options: UploadOptions,
): Promise<number> {
  const { output, signal } = context;
  const files = await selectFiles(paths);
  if (files.length === 0) output.note('There are no files in it');
  await tidyMemory('uploads');
  const memory = openMemory<UploadNote>('uploads');
  const gate: Gate = { notBefore: 0, answered: false };
  const failures: Failure[] = [];
  const sent: string[] = [];
  const waiting = files.values();
  const work = async () => {
    for (const file of waiting) {
      if (signal.aborted) return;
      const key = keyOf(
        context.api.server,
        context.api.credentials.account,
        file.path,
        file.size,
        file.mtimeMs,
      );
      const outcome = await uploadFile(context, { file, memory, key, gate, options });
      if (signal.aborted && outcome.failure) return;
      report(context, file, outcome);
      if (outcome.failure) failures.push(outcome.failure);
      else sent.push(key);
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  signal.throwIfAborted();
  if (failures.length === 0) await Promise.all(sent.map((key) => memory.forget(key)));
  return worstOf(failures);
}

interface One {
  file: LocalFile;
  memory: Memory<UploadNote>;
  key: string;
  gate: Gate;
  options: UploadOptions;
}

/** Uploads one file, and waits for its processing if that is wanted. */
async function uploadFile(context: Context, { file, memory, key, gate, options }: One): Promise<Outcome> {
  const { output } = context;
  const transfer: Transfer = { name: file.label, size: file.size, done: 0, before: 0, startedAt: Date.now() };
  const shown = output.show(transfer);
  const outcome: Outcome = {};
  try {
    const busy = `Another landfall process is uploading ${printable(file.label)}`;
    outcome.id = await withLock(memory.path(key), busy, () =>
      sendFile(context, { file, transfer, memory, key, gate, options }),
    );
    if (!options.wait) return outcome;
    const onChange = (status: KnownStatus) => {
      transfer.note = statusText(status);
    };
    outcome.status = await followFile(context, outcome.id, onChange, options.retrySeconds);
    outcome.failure = failureIn(outcome.status);
    // The same bytes again are a new upload.
    if (outcome.failure) await memory.forget(key);
  } catch (error) {
    outcome.failure = toFailure(error);
  } finally {
    shown.end();
  }
  return outcome;
}

function report({ output }: Context, { label, path, size }: LocalFile, outcome: Outcome): void {
  const { id, status, failure } = outcome;
  const name = printable(label);
  const json = { path, size, id, status: status?.status };
  if (failure) {
    output.error(failure, { text: id === undefined ? name : `${name} (${id})`, json });
  } else if (id !== undefined) {
    const words = [id, ...(status ? [status.status] : []), sizeText(size), name];
    output.result({ text: words.join('  '), json, brief: id });
  }
}
