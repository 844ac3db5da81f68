import type { Context } from './context.js';
import { type Failure, toFailure, worstOf } from './failure.js';
import { failureIn, followFile, getStatus, type KnownStatus, statusText } from './follow.js';
import { printable } from './text.js';

/** `landfall status`: writes the status of each file. @returns the exit code */
export async function showStatuses(context: Context, ids: string[]): Promise<number> {
  return forEachFile(context, ids, async (id) => {
    report(context, id, await getStatus(context.api, id));
    return undefined;
  });
}

/** How long `watch` asks a server that does not answer. */
const PATIENCE_SECONDS = 300;

/** `landfall watch`: writes each change of the files until the processing of all has ended. @returns the exit code */
export async function watchFiles(context: Context, ids: string[]): Promise<number> {
  const work = ids.map((id) =>
    forEachFile(context, [id], async () =>
      failureIn(await followFile(context, id, (status) => report(context, id, status), PATIENCE_SECONDS)),
    ),
  );
  return Math.max(...(await Promise.all(work)));
}

function report({ output }: Context, id: string, status: KnownStatus): void {
  output.result({ text: `${id}  ${statusText(status)}`, json: { id, ...status }, brief: status.status });
}

/**
 * Does something with each file, one after another. An error about one file does not stop the others.
 * @param act returns the failure of the file itself, which it has reported
 * @returns the exit code
 */
export async function forEachFile(
  { output, signal }: Context,
  ids: string[],
  act: (id: string) => Promise<Failure | undefined>,
): Promise<number> {
  const failures: Failure[] = [];
  for (const id of ids) {
    try {
      const failure = await act(id);
      if (failure) failures.push(failure);
    } catch (error) {
      signal.throwIfAborted();
      const failure = toFailure(error);
      failures.push(failure);
      output.error(failure, { text: printable(id), json: { id } });
    }
  }
  return worstOf(failures);
}
