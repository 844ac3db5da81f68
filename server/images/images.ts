import type { DataSource } from 'typeorm';
import { createLimiter, untilAborted } from '../../core/concurrency.js';
import { AppError } from '../../core/errors.js';
import { openBlob, type StoredBlob } from '../../core/files/blobs.js';
import { keepVariant, type Variant } from '../../core/files/variants.js';
import type { Logger } from '../../core/log.js';
import { type ParserOptions, type Parsers, startParsers } from '../../core/media/parsers.js';
import { keyOf, type Rendering } from '../../core/media/rendering.js';
import type { Storage } from '../../core/storage/storage.js';

/*
 * Renders images on request, in parser processes of the server. Requests for the same rendering wait for the same job. Only so
 * many jobs run at once, and only so many wait: further requests are refused, and the clients come back.
 */

export interface Images {
  /**
   * Renders a form of a file and keeps it.
   * @throws {AppError} unavailable when too many wait; not_found when the file is gone; unreadable, too_many_pixels,
   * too_much_memory, took_too_long, parser_died; storage_full; the error of `admit`
   * @throws {Abandoned}
   */
  render(order: Order): Promise<Variant>;
  close(): void;
}

/** All clients of a job have gone before it began, so it was dropped. */
export class Abandoned extends Error {
  override name = 'Abandoned';
}

interface Order {
  fileId: string;
  /** Of the file. */
  blob: StoredBlob;
  rendering: Rendering;
  /** Called if no such job is under way. It may refuse the order by throwing. */
  admit(): Promise<void>;
  /** Aborts when the client has gone. A job is dropped if it has not begun and all its clients have gone. */
  gone: AbortSignal;
}

interface ImageDeps {
  database: DataSource;
  storage: Storage;
  log: Logger;
}

interface Job {
  outcome: Promise<Variant>;
  /** How many clients wait for it. */
  clients: number;
  hasBegun: boolean;
  dropped: AbortController;
}

/** Jobs that may wait for each one that runs. */
const MOST_WAITING = 16;

/** @param limits of the parser processes; the first one starts with the first job */
export function openImages(
  { database, storage, log }: ImageDeps,
  limits: Omit<ParserOptions, 'log'>,
): Images {
  const jobs = new Map<string, Job>();
  const limiter = createLimiter(limits.count);
  const closed = new AbortController();
  let parsers: Parsers | undefined;
  let waiting = 0;

  async function make({ fileId, blob, rendering }: Order): Promise<Variant> {
    // What cannot be kept would be rendered again for each request.
    await storage.room?.requireForDerived();
    parsers ??= startParsers({ ...limits, log });
    const source = { size: blob.size, read: () => openBlob(storage.blobs, blob) };
    const rendered = await parsers.run('render', source, closed.signal, rendering);
    return keepVariant({ database, storage }, fileId, keyOf(rendering), rendered);
  }

  function begin(id: string, work: () => Promise<Variant>): Job {
    if (waiting >= limits.count * MOST_WAITING) {
      throw new AppError('unavailable', { detail: 'Too many images wait to be rendered', retryable: true });
    }
    waiting++;
    const dropped = new AbortController();
    const turn: Omit<Job, 'outcome'> = { clients: 0, hasBegun: false, dropped };
    const outcome = limiter(async () => {
      dropped.signal.throwIfAborted();
      turn.hasBegun = true;
      waiting--;
      return work();
    });
    const job: Job = Object.assign(turn, { outcome: untilAborted(dropped.signal, 0, outcome) });
    const forget = () => jobs.get(id) === job && jobs.delete(id);
    job.outcome.then(forget, forget);
    jobs.set(id, job);
    return job;
  }

  function leave(job: Job): void {
    job.clients--;
    if (job.clients > 0 || job.hasBegun || job.dropped.signal.aborted) return;
    waiting--;
    job.dropped.abort(new Abandoned('nobody waits for this image'));
  }

  return {
    async render(order) {
      const { gone } = order;
      const id = `${order.fileId} ${keyOf(order.rendering)}`;
      if (!jobs.has(id)) await order.admit();
      const found = jobs.get(id);
      const job = found && !found.dropped.signal.aborted ? found : begin(id, () => make(order));
      job.clients++;
      const onGone = () => leave(job);
      if (gone.aborted) onGone();
      else gone.addEventListener('abort', onGone);
      return job.outcome.finally(() => gone.removeEventListener('abort', onGone));
    },
    close() {
      closed.abort();
      parsers?.close();
    },
  };
}
