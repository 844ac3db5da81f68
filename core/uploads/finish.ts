import type { Actor } from '../database/entities/event.js';
import type { File } from '../database/entities/file.js';
import type { Logger } from '../log.js';
import type { ProcessingQueue } from '../queue/queue.js';
import { finishUpload, type LedgerDeps } from './ledger.js';

export interface FinishDeps extends LedgerDeps {
  queue: ProcessingQueue;
  log: Logger;
}

/**
 * Makes the file of an upload whose bytes are all here, and queues its job. A job that cannot be added now is added by
 * the relay later: the file is safe, so the client is not told. May be called again.
 * @param actor who sent the last byte; undefined: found by the system
 * @throws {AppError} not_found, gone, wrong_state
 */
export async function finishAndQueue(deps: FinishDeps, id: string, actor?: Actor): Promise<File> {
  const file = await finishUpload(deps, id, actor);
  if (file.status !== 'pending') return file;
  try {
    await deps.queue.add({ fileId: file.id, run: file.run, requestId: actor?.requestId });
  } catch (error) {
    deps.log.warn({ err: error, fileId: file.id }, 'job could not be queued; the relay will');
  }
  return file;
}
